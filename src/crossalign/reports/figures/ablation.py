"""An ablation as a figure: accuracy over the number of views, one line a weighting."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from crossalign.errors import InputError
from crossalign.evaluation.ablation import WHOLE, Ablation, Cell
from crossalign.evaluation.ablation_tables import WEIGHTINGS, groups, weighting
from crossalign.reports.figures._page import BIG, EDGE, SMALL, Page, text_height, wrap

COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D"
"""Okabe and Ito's, which colour-blind people can tell apart; and what tells lines apart in print without colours."""
STYLES: dict[str, dict[str, Any]] = {
    name: {"color": colour, "marker": marker, "markersize": 6.0 - 0.8 * place, "linewidth": 2.8 - 0.65 * place}
    for place, (name, colour, marker) in enumerate(zip(WEIGHTINGS.values(), COLOURS, MARKERS, strict=True))
}
"""Each line is thinner than the one before it, so that lines that fall together are all seen."""
WHOLE_STYLE: dict[str, Any] = {"color": "#555555", "linestyle": (0, (4, 2)), "linewidth": 1.0}
PANEL, HEIGHT = 3.3, 2.5
"""Inches of a panel's axes."""
LEFT, BELOW, BETWEEN, ABOVE = 0.55, 0.45, 0.3, 0.3


def ablation_figure(ablation: Ablation) -> Figure:
    """Draw a panel a crop scale (side by side) and form (one below the other), with bands of 95 % over pictures.

    Raises:
        InputError: the number of views was not varied.
    """
    found = groups(ablation)
    if len({cell.setting.views for cell in ablation.cells}) < 2:
        raise InputError(
            "a figure needs accuracies over the number of views; put views among --axes, and encode more than one"
        )
    scales, forms = list(dict.fromkeys(scale for scale, _ in found)), list(dict.fromkeys(form for _, form in found))
    dataset = ablation.done.dataset
    title = f"{ablation.full.method} on {dataset.name}, {len(dataset.paths)} pictures, {ablation.done.encoder.name}"
    width = 2 * EDGE + len(scales) * (LEFT + PANEL) + (len(scales) - 1) * BETWEEN
    wrapped = wrap(title, width - 2 * EDGE, BIG, bold=True)
    # Beside a single panel the legend takes a line for every two of its entries.
    legend_lines = 3 if len(scales) == 1 else 1
    top = EDGE + text_height(len(wrapped), BIG) + 0.17 + 0.18 * legend_lines
    page = Page(width, top + len(forms) * (ABOVE + HEIGHT + BELOW) + EDGE)
    page.text(EDGE, EDGE, wrapped, BIG, weight="bold")
    whole = next((cell for cell in ablation.controls if cell.setting.method == WHOLE), None)
    limits = _limits(ablation.cells, whole)
    for (scale, form), cells in found.items():
        column, line = scales.index(scale), forms.index(form)
        left = EDGE + LEFT + column * (LEFT + PANEL + BETWEEN)
        above = top + line * (ABOVE + HEIGHT + BELOW)
        page.text(left, above, [f"views of {scale[0]:g} to {scale[1]:g} of the shorter side, form {form}"])
        axes = page.axes(left, above + ABOVE, PANEL, HEIGHT)
        _panel(axes, cells, whole if form == ablation.full.form else None, limits)
        axes.set_xlabel("number of views" if line == len(forms) - 1 else "", fontsize=SMALL, labelpad=2)
        axes.set_ylabel("top-1 accuracy, %; band: 95 %" if column == 0 else "", fontsize=SMALL, labelpad=2)
    _legend(page, ablation, whole, top - 0.12 - 0.18 * legend_lines, columns=2 if len(scales) == 1 else 5)
    return page.figure


def _panel(axes: Axes, cells: list[Cell], whole: Cell | None, limits: tuple[float, float]) -> None:
    by_weighting: dict[str, list[Cell]] = {}
    for cell in cells:
        by_weighting.setdefault(weighting(cell.setting), []).append(cell)
    for name, of_line in by_weighting.items():
        counts = [cell.setting.views for cell in of_line]
        axes.fill_between(
            counts,
            [cell.interval[0] for cell in of_line],
            [cell.interval[1] for cell in of_line],
            color=STYLES[name]["color"],
            alpha=0.08,
            linewidth=0,
        )
        axes.plot(counts, [cell.top1 for cell in of_line], **STYLES[name])
    if whole:
        axes.axhline(whole.top1, **WHOLE_STYLE)
    counts = list(dict.fromkeys(cell.setting.views for cell in cells))
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=SMALL, length=2, pad=2)
    axes.set_ylim(*limits)
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _limits(cells: list[Cell], whole: Cell | None) -> tuple[float, float]:
    """The same for all panels, so that they can be compared."""
    shown = [*cells, whole] if whole else cells
    low, high = min(cell.interval[0] for cell in shown), max(cell.interval[1] for cell in shown)
    room = 0.03 * max(high - low, 1.0)
    return low - room, high + room


def _legend(page: Page, ablation: Ablation, whole: Cell | None, top: float, columns: int) -> None:
    names = list(dict.fromkeys(weighting(cell.setting) for cell in ablation.cells))
    handles = [Line2D([], [], **STYLES[name]) for name in names]
    if whole:
        handles.append(Line2D([], [], **WHOLE_STYLE))
        names.append(f"whole image alone ({WHOLE})")
    page.figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(EDGE / page.width, 1 - top / page.height),
        ncols=min(columns, len(names)),
        fontsize=SMALL,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=1.8,
    )
