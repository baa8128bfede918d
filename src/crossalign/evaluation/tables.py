"""Results as tables and sentences: for a terminal, a document or a paper."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossalign.errors import InputError
from crossalign.evaluation.latex import escape_latex, latex_table

FORMATS = ("markdown", "csv", "latex")
REFERENCE = "clip"
"""The method that all others are compared with."""
COLUMNS = ("dataset", "encoder", "method", "top-1 %", "95 % interval", "sigma over runs", "top-5 %", "n")
"""Columns of every table, in this order."""
OPTIONAL_COLUMNS = {
    "method": ("budget", "views", "prompts"),
    "sigma over runs": ("sigma over crops",),
    "top-5 %": ("per-class %", f"minus {REFERENCE}", "p after Holm", "ECE %", "temperature"),
}
"""Columns that follow a column of `COLUMNS` if one of the rows has a value for them."""
MARKS = {"markdown": ("**", "**", "†"), "latex": (r"\textbf{", "}", r"$^\dagger$"), "csv": ("", "", "")}
"""Marks before and after the best top-1, and after a top-1 that differs significantly from clip's."""
TRANSDUCTIVE_NOTE = (
    "Transductive methods classify all images of the set together. Their rows are not comparable with those of methods that "
    "classify each image on its own, and have no intervals, because the images are not independent trials. The inductive "
    "accuracy is that of the global view and the same texts, for each image on its own."
)


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file of `crossalign evaluate`.

    Raises:
        InputError: the file is missing, is not JSON, has another schema, or lacks a field that tables show.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"results {str(path)!r} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"results {str(path)!r} are not JSON ({error}); give a file of `crossalign evaluate`") from None
    if not isinstance(content, dict) or content.get("schema") != 1 or "results" not in content:
        raise InputError(f"{str(path)!r} is not a results file of schema 1; give a file of `crossalign evaluate --output`")
    try:
        _cells(content, "csv")
        sentences(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(
            f"results {str(path)!r} have a missing or malformed field ({reason}); run `crossalign evaluate` again"
        ) from None
    return content


def results_table(results: Iterable[Mapping[str, Any]], format: str = "markdown") -> str:
    """Lay out results as a table with one row per dataset, encoder and method, followed by a legend of its marks.

    Args:
        results: contents of results files.
        format: "markdown", "csv" (without marks) or "latex" (the legend is a comment).
    """
    rows = [row for result in results for row in _cells(result, format)]
    if all(row["per-class %"] in ("", row["plain"]) for row in rows):
        rows = [row | {"per-class %": ""} for row in rows]
    columns = []
    for column in COLUMNS:
        columns += [column, *(name for name in OPTIONAL_COLUMNS.get(column, ()) if any(row[name] for row in rows))]
    cells = [[row[column] for column in columns] for row in rows]
    table = _layout(columns, cells, format)
    return table if format == "csv" else table + _legend(cells, format)


def transductive_table(results: Iterable[Mapping[str, Any]], format: str = "markdown") -> str:
    """Lay out the transductive methods of results files as a table of their own; empty if there are none.

    Args:
        results: contents of results files.
        format: "markdown" (with a note on these methods), "csv" or "latex".
    """
    columns = ["dataset", "encoder", "method", "prompts", "top-1 %", "inductive top-1 %", "n"]
    cells = [
        [
            result["dataset"]["name"],
            result["encoder"]["name"],
            row["method"],
            _prompts(row["saw"]),
            f"{row['top1']:.2f}",
            f"{row['inductive_top1']:.2f}",
            str(row["n"]),
        ]
        for result in results
        for row in result.get("transductive", [])
    ]
    if not cells:
        return ""
    if format == "latex":
        cells = [[escape_latex(cell) for cell in row] for row in cells]
    table = _layout(columns, cells, format)
    return table if format != "markdown" else f"{TRANSDUCTIVE_NOTE}\n\n{table}"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Compare the best method with clip and with the second best, in sentences for a paper."""
    comparisons = result.get("comparisons", [])
    if not comparisons:
        return []
    best = max(result["results"], key=lambda row: row["top1"])["method"]
    shown = [c for c in comparisons if best in (c["first"], c["second"])]
    if best == REFERENCE:
        top1 = {row["method"]: row["top1"] for row in result["results"]}
        shown = [max(shown, key=lambda c: top1[c["second"]])]
    start = f"On {result['dataset']['name']} with {result['encoder']['name']}, "
    return [start + _sentence(c, best, len(comparisons)) for c in shown]


def signed(points: float, decimals: int) -> str:
    """Format a difference in points with its sign: "+1.2"."""
    # Adding zero turns -0.0, to which small negative numbers are rounded, into 0.0.
    return f"{round(points, decimals) + 0.0:+.{decimals}f}"


def p_value(value: float, equals: str = "") -> str:
    """Format a p value; `equals` comes before the number, unless it is too small to be printed."""
    return "< 0.0001" if value < 0.0001 else f"{equals}{value:.2g}"


def csv_table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """Lay out cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *cells])
    return text.getvalue()


def _layout(columns: Sequence[str], cells: Sequence[Sequence[str]], format: str) -> str:
    """Lay out cells; for "latex" they are escaped already."""
    if format == "csv":
        return csv_table(columns, cells).rstrip("\n")
    if format == "latex":
        return latex_table([escape_latex(column) for column in columns], cells)
    from tabulate import tabulate  # Slow to import, and `crossalign --help` imports this module.

    return tabulate(cells, columns, tablefmt="github", disable_numparse=True)


def _sentence(comparison: Mapping[str, Any], best: str, number: int) -> str:
    first, second = comparison["first"], comparison["second"]
    difference, low, high = (comparison[key] for key in ("difference", "low", "high"))
    if best == first:
        first, second, difference, low, high = second, first, -difference, -high, -low
    correction = f"after Holm over {number} comparison{'s' if number > 1 else ''}"
    p = f"exact McNemar p {p_value(comparison['p_holm'], '= ')} {correction}"
    test = f"95 % interval {signed(low, 1)} to {signed(high, 1)}, {p}"
    if comparison["significant"]:
        return f"{second} is {difference:.1f} points above {first} ({test})."
    return f"the difference between {second} and {first}, {signed(difference, 1)} points ({test}), is not significant."


def _prompts(saw: Mapping[str, Any]) -> str:
    """Format the texts of a method: "sentences, 9 to 50 per class"."""
    fewest, most = saw["prompts_per_class"]
    return f"{saw['prompts']}, {fewest if fewest == most else f'{fewest} to {most}'} per class"


def _legend(cells: list[list[str]], format: str) -> str:
    """Explain the marks of a table."""
    text = "".join(cell for row in cells for cell in row)
    before, after, differs = MARKS[format]
    best, dagger = ("Bold", "Dagger") if format == "latex" else (f"{before}bold{after}", differs)
    test = "exact McNemar test, p < 0.05 after Holm's correction over the comparisons of its results file"
    meanings = {
        before: f"{best}: the best top-1 of its results file.",
        differs: f"{dagger}: differs from {REFERENCE} ({test}, and a 95 % interval without zero).",
    }
    lines = [meaning for mark, meaning in meanings.items() if mark in text]
    if not lines:
        return ""
    return "\n" + "\n".join(f"% {line}" for line in lines) if format == "latex" else "\n\n" + " ".join(lines)


def _cells(result: Mapping[str, Any], format: str) -> list[dict[str, str]]:
    """Format the rows of a results file, by column; "plain" is the top-1 without marks."""
    rows = result["results"]
    with_reference = {c["second"]: c for c in result.get("comparisons", ()) if c["first"] == REFERENCE}
    best = max((f"{row['top1']:.2f}" for row in rows), key=float, default="") if len(rows) > 1 else ""
    return [_row(result, row, with_reference.get(row["method"]), best, format) for row in rows]


def _row(
    result: Mapping[str, Any],
    row: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
    best: str,
    format: str,
) -> dict[str, str]:
    cells = {
        "dataset": result["dataset"]["name"],
        "encoder": result["encoder"]["name"],
        "method": row["method"] + ("" if row["form"] == "released" else f" ({row['form']})"),
        "budget": "{views}x{sentences}".format(**result["budget"]) if result.get("budget") else "",
        "views": row["saw"]["views"] if "saw" in row else "",
        "prompts": _prompts(row["saw"]) if "saw" in row else "",
        "plain": f"{row['top1']:.2f}",
        "95 % interval": f"{row['ci95'][0]:.2f} to {row['ci95'][1]:.2f}",
        "sigma over runs": f"{row['std']:.2f} ({len(row['runs'])} runs)" if "std" in row else "",
        "sigma over crops": f"{row['fresh_std']:.2f} ({len(row['seeds'])} seeds)" if "fresh_std" in row else "",
        "top-5 %": f"{row['top5']:.2f}",
        "per-class %": f"{row['per_class']:.2f}" if "per_class" in row else "",
        f"minus {REFERENCE}": "",
        "p after Holm": "",
        "ECE %": f"{row['ece']:.2f}" if "ece" in row else "",
        "temperature": f"{row['calibration']['temperature']:.3g}" if "calibration" in row else "",
        "n": str(row["n"]),
    }
    if comparison:
        interval = f"{comparison['low']:+.2f} to {comparison['high']:+.2f}"
        cells[f"minus {REFERENCE}"] = f"{comparison['difference']:+.2f} ({interval})"
        cells["p after Holm"] = p_value(comparison["p_holm"])
    if format == "latex":
        cells = {column: escape_latex(cell) for column, cell in cells.items()}
    before, after, differs = MARKS[format]
    top1 = f"{before}{cells['plain']}{after}" if cells["plain"] == best else cells["plain"]
    return cells | {"top-1 %": top1 + (differs if comparison and comparison["significant"] else "")}
