"""An ablation as tables: short ones for people, and one row a cell for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from tabulate import tabulate

from crossalign.evaluation.ablation import Ablation, Cell, Setting

FORMATS = ("md", "csv", "json")
WEIGHTINGS = {
    (True, True): "view and text weights",
    (True, False): "view weights alone",
    (False, True): "text weights alone",
    (False, False): "no weights",
}
"""By whether views and texts are weighed."""
COLUMNS = (
    "method",
    "weights",
    "views",
    "crop scale",
    "form",
    "prompts",
    "top-1 %",
    "95 % interval",
    "minus full",
    "p after Holm",
)


def ablation_file(ablation: Ablation, format: str) -> str:
    """Write an ablation in one of `FORMATS`: "md" `ablation_text` and every cell, "csv" the cells, "json" all there is."""
    if format == "json":
        return json.dumps(ablation.to_dict(), indent=2, ensure_ascii=False) + "\n"
    cells = [row(cell) for cell in every_cell(ablation)]
    if format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *cells])
        return text.getvalue()
    return f"{ablation_text(ablation)}\n\n## Every cell\n\n{_table(cells, COLUMNS)}\n"


def ablation_text(ablation: Ablation) -> str:
    """Lay out the grid with the numbers of views as columns, a table a crop scale and form, and below it the controls."""
    done, full = ablation.done, ablation.full
    parts = [
        f"Full method: {full.name}; {done.dataset.name}, {len(done.dataset.paths)} pictures, {done.encoder.name}. "
        "Each view is used once, without re-draws; n views are the first n of the longest list."
    ]
    for (scale, form), cells in groups(ablation).items():
        parts.append(f"Top-1 %, views of {_scale(scale)} of the shorter side, form {form}:")
        parts.append(_pivot(cells, full))
    parts.append(_legend(ablation))
    if ablation.controls:
        parts.append("Prompts:")
        rows = [row(cell) for cell in ablation.controls]
        parts.append(_table([[of[0], *of[5:]] for of in rows], [COLUMNS[0], *COLUMNS[5:]]))
    return "\n\n".join(parts)


def groups(ablation: Ablation) -> dict[tuple[tuple[float, float], str], list[Cell]]:
    """Sort the grid by crop scale and form."""
    found: dict[tuple[tuple[float, float], str], list[Cell]] = {}
    for cell in ablation.cells:
        found.setdefault((cell.setting.crop_scale, cell.setting.form), []).append(cell)
    return found


def weighting(setting: Setting) -> str:
    """Say what is weighed."""
    return WEIGHTINGS[setting.view_weights, setting.text_weights]


def every_cell(ablation: Ablation) -> list[Cell]:
    """List grid and controls, the full method once."""
    return list({cell.setting: cell for cell in (*ablation.cells, *ablation.controls)}.values())


def row(cell: Cell) -> list[str]:
    """Write a cell under `COLUMNS`."""
    setting, found = cell.setting, cell.comparison
    return [
        setting.method,
        weighting(setting),
        str(setting.views) if setting.views else "whole image",
        _scale(setting.crop_scale) if setting.views else "",
        setting.form,
        setting.prompts,
        f"{cell.top1:.2f}",
        "{:.2f} to {:.2f}".format(*cell.interval),
        f"{_signed(found.difference)} ({_signed(found.low)} to {_signed(found.high)})" if found else "",
        ("< 0.0001" if found.p_holm < 0.0001 else f"{found.p_holm:.2g}") if found else "",
    ]


def _pivot(cells: Sequence[Cell], full: Setting) -> str:
    counts = list(dict.fromkeys(cell.setting.views for cell in cells))
    rows: dict[str, list[str]] = {}
    for cell in cells:
        mark = "**" if cell.setting == full else ""
        dagger = "†" if cell.comparison and cell.comparison.significant else ""
        rows.setdefault(weighting(cell.setting), []).append(f"{mark}{cell.top1:.2f}{mark}{dagger}")
    head = ["weights", *(f"{count} view{'s' if count > 1 else ''}" for count in counts)]
    return _table([[name, *values] for name, values in rows.items()], head)


def _legend(ablation: Ablation) -> str:
    cells = every_cell(ablation)
    width = max((cell.interval[1] - cell.interval[0]) / 2 for cell in cells)
    legend = (
        f"**bold**: the full method. The 95 % intervals (Wilson, over pictures) reach up to {width:.1f} points either way."
    )
    if any(cell.comparison and cell.comparison.significant for cell in ablation.cells):
        legend += (
            " †: differs from the full method (exact McNemar test, p < 0.05 after Holm's correction over the "
            f"{len(cells) - 1} other cells, and a 95 % paired interval without zero)."
        )
    else:
        legend += " None of these differs significantly from it (exact McNemar test, p < 0.05 after Holm's correction)."
    return legend


def _signed(points: float) -> str:
    # Adding zero takes the sign from what was rounded to it.
    return f"{round(points, 2) + 0.0:+.2f}"


def _scale(scale: tuple[float, float]) -> str:
    return "{:g} to {:g}".format(*scale)


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)
