"""Results as tables and sentences: for a terminal, a document or a paper."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from crossalign.errors import InputError

FORMATS = ("markdown", "csv", "latex")
REFERENCE = "clip"
COLUMNS = ("dataset", "encoder", "method", "top-1 %", "95 % interval", "sigma over runs", "top-5 %", "n")
"""Always shown, in this order."""
BEHIND = {
    "method": ("budget", "views", "prompts"),
    "sigma over runs": ("sigma over crops",),
    "top-5 %": ("per-class %", f"minus {REFERENCE}", "p after Holm", "ECE %", "temperature"),
}
"""Shown behind a column if some row fills them."""
MARKS = {"markdown": ("**", "**", "†"), "latex": ("\ue000", "\ue001", "\ue002"), "csv": ("", "", "")}
"""What stands before and behind the best, and behind what differs significantly from clip."""
TOGETHER = (
    "Transductive methods: each image was judged with all others of the set in view, so these rows are not comparable with "
    "the table of methods that judge each image on its own; the images are no independent trials, so there are no "
    "intervals. The inductive accuracy is that of the global view and the same texts, each image on its own."
)
"""What a table of transductive methods is, since it must not be taken for one of the others."""
LATEX = {"\ue000": r"\textbf{", "\ue001": "}", "\ue002": r"$^\dagger$"}
"""LaTeX's own marks would be escaped with the rest of their cells; these take the places of characters that no name has."""


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file of `crossalign evaluate`.

    Raises:
        InputError: missing, no JSON, of another schema, or without what a table shows.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"results {str(path)!r} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"results {str(path)!r} are no JSON ({error}); give a file of `crossalign evaluate`") from None
    if not isinstance(content, dict) or content.get("schema") != 1 or "results" not in content:
        raise InputError(f"{str(path)!r} is no results file of schema 1; give a file of `crossalign evaluate --output`")
    try:
        _cells(content, MARKS["csv"])
        sentences(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"results {str(path)!r} lack or spoil a field ({reason}); make them anew") from None
    return content


def results_table(results: Iterable[Mapping[str, Any]], format: str = "markdown") -> str:
    """Lay out results, one row a dataset, encoder and method, with marks and, below, what they mean.

    Args:
        results: contents of results files.
        format: "markdown", "csv" (no marks) or "latex" (what the marks mean is a comment).
    """
    rows = [row for result in results for row in _cells(result, MARKS[format])]
    if all(row["per-class %"] in ("", row["plain"]) for row in rows):
        rows = [row | {"per-class %": ""} for row in rows]
    names = []
    for name in COLUMNS:
        names += [name, *(more for more in BEHIND.get(name, ()) if any(row[more] for row in rows))]
    cells = [[row[name] for name in names] for row in rows]
    table = _laid_out(names, cells, format)
    return table if format == "csv" else table + _legend(cells, format)


def _laid_out(names: list[str], cells: list[list[str]], format: str) -> str:
    if format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *cells])
        return text.getvalue().rstrip("\n")
    layout = {"markdown": "github", "latex": "latex_booktabs"}[format]
    table = tabulate(cells, names, tablefmt=layout, disable_numparse=True)
    return "".join(LATEX.get(character, character) for character in table) if format == "latex" else table


def transductive_table(results: Iterable[Mapping[str, Any]], format: str = "markdown") -> str:
    """Lay out the transductive methods of results files in a table of their own; empty if there are none.

    Args:
        results: contents of results files.
        format: "markdown", "csv" or "latex"; in Markdown a paragraph says what these rows are.
    """
    names = ["dataset", "encoder", "method", "prompts", "top-1 %", "inductive top-1 %", "n"]
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
    table = _laid_out(names, cells, format)
    return table if format != "markdown" else f"{TOGETHER}\n\n{table}"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Say in words that one may write what the best method is against clip, and against the runner-up."""
    comparisons = result.get("comparisons", [])
    if not comparisons:
        return []
    best = max(result["results"], key=lambda row: row["top1"])["method"]
    told = [c for c in comparisons if best in (c["first"], c["second"])]
    if best == REFERENCE:
        top1 = {row["method"]: row["top1"] for row in result["results"]}
        told = [max(told, key=lambda c: top1[c["second"]])]
    place = f"On {result['dataset']['name']} with {result['encoder']['name']}, "
    return [place + _sentence(c, best, len(comparisons)) for c in told]


def _sentence(comparison: Mapping[str, Any], best: str, number: int) -> str:
    first, second = comparison["first"], comparison["second"]
    difference, low, high = (comparison[key] for key in ("difference", "low", "high"))
    if best == first:
        first, second, difference, low, high = second, first, -difference, -high, -low
    over = f"after Holm over {number} comparison{'s' if number > 1 else ''}"
    p = f"exact McNemar p {_p(comparison['p_holm'], '= ')} {over}"
    test = f"95 % interval {_signed(low)} to {_signed(high)}, {p}"
    if comparison["significant"]:
        return f"{second} is {difference:.1f} points above {first} ({test})."
    return f"the difference between {second} and {first}, {_signed(difference)} points ({test}), is not significant."


def _signed(points: float) -> str:
    # Adding zero takes the sign from what was rounded to it.
    return f"{round(points, 1) + 0.0:+.1f}"


def _p(value: float, equals: str = "") -> str:
    return "< 0.0001" if value < 0.0001 else f"{equals}{value:.2g}"


def _prompts(saw: Mapping[str, Any]) -> str:
    """Say what a method read: "sentences, 9 to 50 per class"."""
    fewest, most = saw["prompts_per_class"]
    return f"{saw['prompts']}, {fewest if fewest == most else f'{fewest} to {most}'} per class"


def _legend(cells: list[list[str]], format: str) -> str:
    """Explain the marks that occur."""
    text = "".join(cell for row in cells for cell in row)
    before, behind, differs = MARKS[format]
    best, dagger = ("Bold", "Dagger") if format == "latex" else (f"{before}bold{behind}", differs)
    test = "exact McNemar test, p < 0.05 after Holm's correction over the comparisons of its results file"
    meanings = {
        before: f"{best}: the best top-1 of its results file.",
        differs: f"{dagger}: differs from {REFERENCE} ({test}, and a 95 % interval without zero).",
    }
    lines = [meaning for mark, meaning in meanings.items() if mark in text]
    if not lines:
        return ""
    return "\n" + "\n".join(f"% {line}" for line in lines) if format == "latex" else "\n\n" + " ".join(lines)


def _cells(result: Mapping[str, Any], marks: tuple[str, str, str]) -> list[dict[str, str]]:
    """Write each of a result's rows, by column; "plain" is the top-1 without marks."""
    rows = result["results"]
    against = {c["second"]: c for c in result.get("comparisons", ()) if c["first"] == REFERENCE}
    best = max((f"{row['top1']:.2f}" for row in rows), key=float, default="") if len(rows) > 1 else ""
    return [_row(result, row, against.get(row["method"]), best, marks) for row in rows]


def _row(
    result: Mapping[str, Any],
    row: Mapping[str, Any],
    against: Mapping[str, Any] | None,
    best: str,
    marks: tuple[str, str, str],
) -> dict[str, str]:
    before, behind, differs = marks
    plain = f"{row['top1']:.2f}"
    marked = f"{before}{plain}{behind}" if plain == best else plain
    cells = {
        "dataset": result["dataset"]["name"],
        "encoder": result["encoder"]["name"],
        "method": row["method"] + ("" if row["form"] == "released" else f" ({row['form']})"),
        "budget": "{views}x{sentences}".format(**result["budget"]) if result.get("budget") else "",
        "views": row["saw"]["views"] if "saw" in row else "",
        "prompts": _prompts(row["saw"]) if "saw" in row else "",
        "plain": plain,
        "top-1 %": marked + (differs if against and against["significant"] else ""),
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
    if against:
        cells[f"minus {REFERENCE}"] = f"{against['difference']:+.2f} ({against['low']:+.2f} to {against['high']:+.2f})"
        cells["p after Holm"] = _p(against["p_holm"])
    return cells
