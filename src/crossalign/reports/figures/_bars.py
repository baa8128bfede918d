"""The lower half of an explanation: the similarity of the image to each description of a class, under one or two methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from crossalign.errors import InputError
from crossalign.explanation import ClassEvidence, Explanation
from crossalign.methods.registry import pick_methods
from crossalign.reports.figures._names import method_name, short
from crossalign.reports.figures._page import EDGE, LETTER, SMALL, Page, text_height, wrap

FIRST_COLOUR, RIVAL_COLOUR = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion, for colour-blind readers."""
MAX_ROWS, MAX_RIVAL_ROWS = 12, 6
"""Largest number of descriptions in a panel: of the method, and of a rival with other descriptions."""
TEXT_WIDTH, VALUE_WIDTH = 4.0, 0.55
ABOVE, BELOW, BAR = 0.26, 0.55, 0.12
"""Space above the bars for the means, space below them for the axis, and height of a bar, in inches."""
DASH = 3
"""Length of a dash in the line of a mean, in line widths."""


@dataclass(frozen=True)
class Row:
    """A description: its wrapped text, and its similarity under each method; None if the method does not use it."""

    text: tuple[str, ...]
    first: float | None
    rival: float | None

    @property
    def height(self) -> float:
        """Height in inches."""
        return max(2 * BAR + 0.08, text_height(len(self.text)) + 0.08)


@dataclass(frozen=True)
class Panel:
    """The bar chart of one class.

    Attributes:
        title: lines of the title.
        rows: the bars.
        means: for each method, the mean over all descriptions by their text weights, and the colour.
        note: lines that say how many descriptions are not shown.
    """

    title: list[str]
    rows: list[Row]
    means: list[tuple[float, str]]
    note: list[str]

    @property
    def height(self) -> float:
        """Height in inches."""
        return text_height(len(self.title)) + ABOVE + sum(row.height for row in self.rows) + BELOW

    @property
    def low(self) -> float:
        """Lower limit of the axis: the smallest value, or zero."""
        return min(0.0, *self._values())

    @property
    def high(self) -> float:
        """Upper limit of the axis: the largest value, or a little more than zero."""
        return max(0.01, *self._values())

    def _values(self) -> list[float]:
        bars = [value for row in self.rows for value in (row.first, row.rival) if value is not None]
        return bars + [mean for mean, _ in self.means]


def panel(explanation: Explanation, rival: Explanation | None, label: str, width: float) -> Panel:
    """Build the panel of a class for a page of some width in inches.

    Raises:
        InputError: one of the methods is not explained for the label.
    """
    first = _Side(explanation, label)
    means, predicted_by = [(first.mean, FIRST_COLOUR)], [first.predicted_by]
    order = first.strongest(MAX_ROWS)
    rival_values: list[float | None] = [None] * len(first.values)
    rival_rows: list[Row] = []
    note = first.note(order)
    if rival is not None:
        second = _Side(rival, label)
        means.append((second.mean, RIVAL_COLOUR))
        predicted_by.append(second.predicted_by)
        if _same_descriptions(first, second):
            rival_values = list(second.values)
        else:
            best = second.strongest(MAX_RIVAL_ROWS)
            rival_rows = [Row(second.texts[i], None, second.values[i]) for i in best]
            note += second.note(best)
    rows = [Row(first.texts[i], first.values[i], rival_values[i]) for i in order] + rival_rows
    methods = " and ".join(filter(None, predicted_by)) or "neither"
    title = f"Similarity of the image to the descriptions of “{short(label)}”, the label of {methods}"
    return Panel(wrap(title, width - 2 * EDGE - LETTER), rows, means, wrap(" ".join(note), TEXT_WIDTH - 0.2))


class _Side:
    """The descriptions of a class under one method, and the similarity of the image with each."""

    def __init__(self, explanation: Explanation, label: str):
        self.method = explanation.method
        try:
            evidence = explanation.evidence(label)
        except KeyError:
            raise InputError(
                f"{self.method} was not explained for {label!r}; use explain(..., also=[{label!r}]) to compare two methods"
            ) from None
        self.evidence: ClassEvidence = evidence
        self.predicted_by = method_name(self.method) if explanation.classes[0].label == label else ""
        self.texts = [tuple(wrap(reason.text, TEXT_WIDTH - 0.2)) for reason in evidence.reasons]
        weighted = explanation.similarities(label) * evidence.text_weights
        self.mean = float(weighted.sum())
        # The phrasings of one description share a bar.
        self.values = [float(weighted[list(r.rows)].sum()) / r.weight for r in evidence.reasons]

    def strongest(self, most: int) -> list[int]:
        """Indices of the descriptions that contribute most to the score, the most similar first."""
        reasons = self.evidence.reasons
        best = sorted(range(len(reasons)), key=lambda i: -reasons[i].contribution)[:most]
        return sorted(best, key=lambda i: -self.values[i])

    def note(self, shown: list[int]) -> list[str]:
        """A sentence if not all descriptions are shown."""
        if len(shown) == len(self.values):
            return []
        return [f"{method_name(self.method)}: the strongest {len(shown)} of {len(self.values)} descriptions."]


def _same_descriptions(first: _Side, second: _Side) -> bool:
    """Whether both methods make their prompts from the same descriptions; these are then in the same order."""
    described = all(method.needs_descriptions for method in pick_methods([first.method, second.method]))
    return described and len(first.values) == len(second.values)


def draw_panel(page: Page, top: float, panel: Panel, letter: str, limits: tuple[float, float]) -> None:
    """Draw the bar chart of a class; the y axis is in inches, so that rows are as high as their text."""
    page.title(EDGE, top, letter, panel.title)
    top += text_height(len(panel.title)) + ABOVE
    height = sum(row.height for row in panel.rows)
    left = EDGE + TEXT_WIDTH
    axes = page.axes(left, top, page.width - left - VALUE_WIDTH - EDGE, height)
    axes.set_xlim(limits[0] * 1.02, limits[1] * 1.02)
    axes.set_ylim(height, 0)
    middles, start = [], 0.0
    for row in panel.rows:
        middles.append(start + row.height / 2)
        start += row.height
        values = ((row.first, FIRST_COLOUR), (row.rival, RIVAL_COLOUR))
        bars = [(value, colour) for value, colour in values if value is not None]
        for number, (value, colour) in enumerate(bars):
            y = middles[-1] + (number - (len(bars) - 1) / 2) * BAR
            axes.barh(y, value, 0.9 * BAR, color=colour, linewidth=0)
            place = (1.01, y)
            axes.text(
                *place, f"{value:.3f}", transform=axes.get_yaxis_transform(), fontsize=SMALL - 1, va="center", color=colour
            )
    axes.set_yticks(middles, ["\n".join(row.text) for row in panel.rows], fontsize=SMALL, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=SMALL, length=2)
    axes.set_xlabel("similarity (cosine)", fontsize=SMALL, labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_means(axes, panel.means)
    page.text(EDGE, top + height + 0.08, panel.note, color="0.4")


def _draw_means(axes: Axes, means: list[tuple[float, str]]) -> None:
    """Draw a dashed line at each mean, with the lower number left of its line and the higher one right of it."""
    for mean, _ in means:
        # A white line below keeps the dashes visible on bars of their colour.
        axes.axvline(mean, color="white", linewidth=2.4)
    for number, (mean, colour) in enumerate(sorted(means)):
        # Offset dashes keep two lines at the same place visible.
        axes.axvline(mean, color=colour, linestyle=(DASH * number, (DASH, DASH)), linewidth=1.2)
        side, shift = ("center", 0) if len(means) == 1 else (("right", -3), ("left", 3))[number]
        place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "ha": side}
        axes.annotate(f"mean {mean:.3f}", (mean, 1), (shift, 3), fontsize=SMALL, color=colour, **place)


def draw_legend(page: Page, top: float, explanation: Explanation, rival: Explanation | None) -> None:
    """Draw the legend below all panels."""
    handles: list[Patch | Line2D] = [Patch(color=FIRST_COLOUR, label=_legend_text(explanation))]
    if rival is not None:
        handles.append(Patch(color=RIVAL_COLOUR, label=_legend_text(rival)))
    handles.append(
        Line2D([], [], color="0.3", linestyle=(0, (DASH, DASH)), linewidth=1.2, label="mean over all descriptions")
    )
    page.figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - top / page.height),
        ncols=3,
        fontsize=SMALL,
        frameon=False,
    )


def _legend_text(explanation: Explanation) -> str:
    views = len(explanation.boxes)
    return f"{method_name(explanation.method)}, {f'weighted mean over {views} views' if views > 1 else 'global view'}"
