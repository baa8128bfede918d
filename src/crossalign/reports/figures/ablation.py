"""An ablation as a figure: accuracy over the number of views, with one line per weighting."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from crossalign.errors import InputError
from crossalign.evaluation.ablation import GLOBAL_VIEW_METHOD, Ablation, Cell
from crossalign.evaluation.ablation_tables import WEIGHTINGS, groups, weighting
from crossalign.reports.figures._page import BIG, SMALL, wrap

COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^D"
"""Okabe and Ito's colours, for colour-blind readers; markers, for print without colours."""
STYLES: dict[str, dict[str, Any]] = {
    name: {"color": colour, "marker": marker, "markersize": 6.0 - 0.8 * place, "linewidth": 2.8 - 0.65 * place}
    for place, (name, colour, marker) in enumerate(zip(WEIGHTINGS.values(), COLOURS, MARKERS, strict=True))
}
"""Each line is thinner than the one before, so that lines on top of each other are all visible."""
GLOBAL_VIEW_STYLE: dict[str, Any] = {"color": "#555555", "linestyle": (0, (4, 2)), "linewidth": 1.0}
PANEL_WIDTH, PANEL_HEIGHT = 3.8, 3.1
"""Size of a panel with its labels, in inches."""


def ablation_figure(ablation: Ablation) -> Figure:
    """Plot accuracy over the number of views, with 95 % bands over images.

    The figure has one panel per crop scale (columns) and form of the score (rows).

    Raises:
        InputError: the number of views does not vary.
    """
    panels = groups(ablation)
    if len({cell.setting.views for cell in ablation.cells}) < 2:
        raise InputError("a figure needs accuracies for two or more numbers of views; include 'views' in the axes")
    scales, forms = list(dict.fromkeys(scale for scale, _ in panels)), list(dict.fromkeys(form for _, form in panels))
    width = max(5.0, PANEL_WIDTH * len(scales))
    figure = Figure((width, PANEL_HEIGHT * len(forms) + 0.8), dpi=100, facecolor="white", layout="constrained")
    evaluation = ablation.evaluation
    dataset = evaluation.dataset
    title = f"{ablation.full.method} on {dataset.name}, {len(dataset.paths)} images, {evaluation.encoder.name}"
    lines = wrap(title, width - 0.4, BIG, bold=True)
    figure.suptitle("\n".join(lines), fontsize=BIG, weight="bold", parse_math=False)
    global_view = next((cell for cell in ablation.controls if cell.setting.method == GLOBAL_VIEW_METHOD), None)
    axes = figure.subplots(len(forms), len(scales), sharey=True, squeeze=False)
    for (scale, form), cells in panels.items():
        row, column = forms.index(form), scales.index(scale)
        panel = axes[row, column]
        panel.set_title(f"crops of {scale[0]:g} to {scale[1]:g}, form {form}", fontsize=SMALL, loc="left")
        _draw_panel(panel, cells, global_view if form == ablation.full.form else None)
        if row == len(forms) - 1:
            panel.set_xlabel("number of views", fontsize=SMALL)
        if column == 0:
            panel.set_ylabel("top-1 accuracy, %; band: 95 %", fontsize=SMALL)
    names = list(dict.fromkeys(weighting(cell.setting) for cell in ablation.cells))
    handles = [Line2D([], [], **STYLES[name]) for name in names]
    if global_view:
        handles.append(Line2D([], [], **GLOBAL_VIEW_STYLE))
        names.append(f"global view alone ({GLOBAL_VIEW_METHOD})")
    columns = min(len(names), 2 if len(scales) == 1 else 3)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False)
    return figure


def _draw_panel(axes: Axes, cells: list[Cell], global_view: Cell | None) -> None:
    lines: dict[str, list[Cell]] = {}
    for cell in cells:
        lines.setdefault(weighting(cell.setting), []).append(cell)
    for name, line in lines.items():
        counts = [cell.setting.views for cell in line]
        low, high = zip(*(cell.interval for cell in line), strict=True)
        axes.fill_between(counts, low, high, color=STYLES[name]["color"], alpha=0.08, linewidth=0)
        axes.plot(counts, [cell.top1 for cell in line], **STYLES[name])
    if global_view:
        axes.axhline(global_view.top1, **GLOBAL_VIEW_STYLE)
    counts = list(dict.fromkeys(cell.setting.views for cell in cells))
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=SMALL, length=2, pad=2)
    axes.grid(axis="y", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
