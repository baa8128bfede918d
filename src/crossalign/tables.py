"""Results as tables: for a terminal, a document or a paper."""

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
        _rows(content)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise InputError(f"results {str(path)!r} lack or spoil a field ({reason}); make them anew") from None
    return content


def results_table(results: Iterable[Mapping[str, Any]], format: str = "markdown") -> str:
    """Lay out results, one row a dataset, encoder and method.

    Args:
        results: contents of results files.
        format: "markdown", "csv" or "latex".
    """
    header = ["dataset", "encoder", "method", "top-1 %", "95 % interval", "sigma over runs", "top-5 %", "n"]
    rows = [row for result in results for row in _rows(result)]
    if format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue().rstrip("\n")
    layout = {"markdown": "github", "latex": "latex_booktabs"}[format]
    return tabulate(rows, header, tablefmt=layout, disable_numparse=True)


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            result["dataset"]["name"],
            result["encoder"]["name"],
            row["method"] + ("" if row["form"] == "released" else f" ({row['form']})"),
            f"{row['top1']:.2f}",
            f"{row['ci95'][0]:.2f} to {row['ci95'][1]:.2f}",
            f"{row['std']:.2f} ({len(row['runs'])} runs)" if "std" in row else "",
            f"{row['top5']:.2f}",
            str(row["n"]),
        ]
        for row in result["results"]
    ]
