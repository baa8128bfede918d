"""An ablation as tables: summary tables for people, and one row per cell for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tabulate import tabulate

from crossalign.evaluation.ablation import Ablation, Cell, Setting
from crossalign.evaluation.tables import csv_table, p_value, signed

FORMATS = ("md", "csv", "json")
WEIGHTINGS = {
    (True, True): "view and text weights",
    (True, False): "view weights alone",
    (False, True): "text weights alone",
    (False, False): "no weights",
}
"""By (view weights on, text weights on)."""
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
    """Format an ablation as "md" (`ablation_text` and a table of all cells), "csv" (all cells) or "json" (everything)."""
    if format == "json":
        return json.dumps(ablation.to_dict(), indent=2, ensure_ascii=False) + "\n"
    cells = [row(cell) for cell in all_cells(ablation)]
    if format == "csv":
        return csv_table(COLUMNS, cells)
    return f"{ablation_text(ablation)}\n\n## All cells\n\n{_table(cells, COLUMNS)}\n"


def ablation_text(ablation: Ablation) -> str:
    """Format the grid as one table per crop scale and form, with the numbers of views as columns; then the controls."""
    evaluation, full = ablation.evaluation, ablation.full
    parts = [
        f"Full method: {full.name}; {evaluation.dataset.name}, {len(evaluation.dataset.paths)} images, "
        f"{evaluation.encoder.name}. Each view is used once, without resampled runs; n views are the first n of all views."
    ]
    for (scale, form), cells in groups(ablation).items():
        parts.append(f"Top-1 %, crops of {_scale(scale)} of the shorter side, form {form}:")
        parts.append(_by_number_of_views(cells, full))
    parts.append(_legend(ablation))
    if ablation.controls:
        parts.append("Prompts:")
        rows = [row(cell) for cell in ablation.controls]
        parts.append(_table([[cells[0], *cells[5:]] for cells in rows], [COLUMNS[0], *COLUMNS[5:]]))
    return "\n\n".join(parts)


def groups(ablation: Ablation) -> dict[tuple[tuple[float, float], str], list[Cell]]:
    """Group the cells of the grid by crop scale and form."""
    cells: dict[tuple[tuple[float, float], str], list[Cell]] = {}
    for cell in ablation.cells:
        cells.setdefault((cell.setting.crop_scale, cell.setting.form), []).append(cell)
    return cells


def weighting(setting: Setting) -> str:
    """Which weights are on, in words."""
    return WEIGHTINGS[setting.view_weights, setting.text_weights]


def all_cells(ablation: Ablation) -> list[Cell]:
    """Grid and controls; the full method comes once."""
    return list({cell.setting: cell for cell in (*ablation.cells, *ablation.controls)}.values())


def row(cell: Cell) -> list[str]:
    """Format a cell, by `COLUMNS`."""
    setting, comparison = cell.setting, cell.comparison
    return [
        setting.method,
        weighting(setting),
        str(setting.views) if setting.views else "global view",
        _scale(setting.crop_scale) if setting.views else "",
        setting.form,
        setting.prompts,
        f"{cell.top1:.2f}",
        "{:.2f} to {:.2f}".format(*cell.interval),
        f"{signed(comparison.difference, 2)} ({signed(comparison.low, 2)} to {signed(comparison.high, 2)})"
        if comparison
        else "",
        p_value(comparison.p_holm) if comparison else "",
    ]


def _by_number_of_views(cells: Sequence[Cell], full: Setting) -> str:
    counts = list(dict.fromkeys(cell.setting.views for cell in cells))
    rows: dict[str, list[str]] = {}
    for cell in cells:
        mark = "**" if cell.setting == full else ""
        dagger = "†" if cell.comparison and cell.comparison.significant else ""
        rows.setdefault(weighting(cell.setting), []).append(f"{mark}{cell.top1:.2f}{mark}{dagger}")
    head = ["weights", *(f"{count} view{'s' if count > 1 else ''}" for count in counts)]
    return _table([[name, *values] for name, values in rows.items()], head)


def _legend(ablation: Ablation) -> str:
    cells = all_cells(ablation)
    width = max((cell.interval[1] - cell.interval[0]) / 2 for cell in cells)
    legend = (
        f"**bold**: the full method. The 95 % intervals (Wilson, over images) reach at most {width:.1f} points to each side."
    )
    if any(cell.comparison and cell.comparison.significant for cell in ablation.cells):
        legend += (
            " †: differs from the full method (exact McNemar test, p < 0.05 after Holm's correction over the "
            f"{len(cells) - 1} other cells, and a 95 % paired interval without zero)."
        )
    else:
        legend += " None of these differs significantly from it (exact McNemar test, p < 0.05 after Holm's correction)."
    return legend


def _scale(scale: tuple[float, float]) -> str:
    return "{:g} to {:g}".format(*scale)


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)
