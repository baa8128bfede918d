"""The lower half of an explanation: how well the picture fits what is said of a class, under one method or two."""

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

OURS, RIVAL = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion, which colour-blind people can tell apart."""
MOST_ROWS, MOST_OTHER_ROWS = 12, 6
"""Descriptions in a panel: of the method, and of a rival that says other things."""
TEXT_WIDTH, VALUE_WIDTH = 4.0, 0.55
ABOVE, BELOW, BAR = 0.26, 0.55, 0.12
"""Inches above and below the bars, for the means and the axis, and of a bar."""
DASH = 3
"""Of a mean's line, in its widths."""


@dataclass(frozen=True)
class Row:
    """A description's wrapped text, and its similarity under the method and the rival, None where it is not theirs."""

    text: tuple[str, ...]
    ours: float | None
    rival: float | None

    @property
    def height(self) -> float:
        """Inches."""
        return max(2 * BAR + 0.08, text_height(len(self.text)) + 0.08)


@dataclass(frozen=True)
class Panel:
    """What is drawn for one class.

    Attributes:
        title: its lines.
        rows: its bars.
        means: each method's mean over all descriptions by their text weights, with its colour.
        note: the lines that say what is left out.
    """

    title: list[str]
    rows: list[Row]
    means: list[tuple[float, str]]
    note: list[str]

    @property
    def height(self) -> float:
        """Inches."""
        return text_height(len(self.title)) + ABOVE + sum(row.height for row in self.rows) + BELOW

    @property
    def low(self) -> float:
        """The least value, or zero."""
        return min(0.0, *self._values())

    @property
    def high(self) -> float:
        """The greatest value, or a little more than zero."""
        return max(0.01, *self._values())

    def _values(self) -> list[float]:
        bars = [value for row in self.rows for value in (row.ours, row.rival) if value is not None]
        return bars + [mean for mean, _ in self.means]


def panel(explanation: Explanation, rival: Explanation | None, label: str, width: float) -> Panel:
    """Collect a class's bars for a page of some width in inches.

    Raises:
        InputError: one of the methods is not explained for that label.
    """
    ours = _Side(explanation, label)
    means, answered = [(ours.mean, OURS)], [ours.answered]
    order = ours.strongest(MOST_ROWS)
    others: list[float | None] = [None] * len(ours.values)
    more: list[Row] = []
    note = ours.left_out(order)
    if rival is not None:
        theirs = _Side(rival, label)
        means.append((theirs.mean, RIVAL))
        answered.append(theirs.answered)
        if _same_descriptions(ours, theirs):
            others = list(theirs.values)
        else:
            best = theirs.strongest(MOST_OTHER_ROWS)
            more = [Row(theirs.texts[i], None, theirs.values[i]) for i in best]
            note += theirs.left_out(best)
    rows = [Row(ours.texts[i], ours.values[i], others[i]) for i in order] + more
    whose = " and ".join(filter(None, answered)) or "neither"
    title = f"How similar the picture is to what is said of “{short(label)}”, the answer of {whose}"
    return Panel(wrap(title, width - 2 * EDGE - LETTER), rows, means, wrap(" ".join(note), TEXT_WIDTH - 0.2))


class _Side:
    """One method's descriptions of a class, and the picture's similarity with each."""

    def __init__(self, explanation: Explanation, label: str):
        self.method = explanation.method
        try:
            found = explanation.evidence(label)
        except KeyError:
            why = f"{self.method} was not explained for {label!r}"
            raise InputError(f"{why}; call explain(..., also=[{label!r}]) before two methods are compared") from None
        self.found: ClassEvidence = found
        self.answered = method_name(self.method) if explanation.classes[0].label == label else ""
        self.texts = [tuple(wrap(reason.text, TEXT_WIDTH - 0.2)) for reason in found.reasons]
        weighted = explanation.similarities(label) * found.text_weights
        self.mean = float(weighted.sum())
        # The phrasings of one description share a bar.
        self.values = [float(weighted[list(r.rows)].sum()) / r.weight for r in found.reasons]

    def strongest(self, most: int) -> list[int]:
        """Pick the descriptions that add most to the score, the most similar first."""
        reasons = self.found.reasons
        best = sorted(range(len(reasons)), key=lambda i: -reasons[i].contribution)[:most]
        return sorted(best, key=lambda i: -self.values[i])

    def left_out(self, shown: list[int]) -> list[str]:
        """Say so if not all are shown."""
        if len(shown) == len(self.values):
            return []
        return [f"{method_name(self.method)}: the strongest {len(shown)} of {len(self.values)} descriptions."]


def _same_descriptions(ours: _Side, theirs: _Side) -> bool:
    """Whether both make their prompts of the same descriptions; then they have them in the same order."""
    described = all(method.needs_descriptions for method in pick_methods([ours.method, theirs.method]))
    return described and len(ours.values) == len(theirs.values)


def draw_panel(page: Page, top: float, panel: Panel, letter: str, limits: tuple[float, float]) -> None:
    """Draw a class's bars; the axes count inches downwards, so that rows are as high as their text."""
    page.title(EDGE, top, letter, panel.title)
    top += text_height(len(panel.title)) + ABOVE
    tall = sum(row.height for row in panel.rows)
    left = EDGE + TEXT_WIDTH
    axes = page.axes(left, top, page.width - left - VALUE_WIDTH - EDGE, tall)
    axes.set_xlim(limits[0] * 1.02, limits[1] * 1.02)
    axes.set_ylim(tall, 0)
    middles, start = [], 0.0
    for row in panel.rows:
        middles.append(start + row.height / 2)
        start += row.height
        bars = [(value, colour) for value, colour in ((row.ours, OURS), (row.rival, RIVAL)) if value is not None]
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
    page.text(EDGE, top + tall + 0.08, panel.note, color="0.4")


def _draw_means(axes: Axes, means: list[tuple[float, str]]) -> None:
    """Dash each method's mean; of two, the lower one's number stands left of its line and the higher one's right."""
    for mean, _ in means:
        # The white keeps the dashes visible on bars of their own colour.
        axes.axvline(mean, color="white", linewidth=2.4)
    for number, (mean, colour) in enumerate(sorted(means)):
        # Dashes of two lines at the same place take turns.
        axes.axvline(mean, color=colour, linestyle=(DASH * number, (DASH, DASH)), linewidth=1.2)
        side, shift = ("center", 0) if len(means) == 1 else (("right", -3), ("left", 3))[number]
        place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "ha": side}
        axes.annotate(f"mean {mean:.3f}", (mean, 1), (shift, 3), fontsize=SMALL, color=colour, **place)


def draw_legend(page: Page, top: float, explanation: Explanation, rival: Explanation | None) -> None:
    """Say below all panels whose bars are whose."""
    handles: list[Patch | Line2D] = [Patch(color=OURS, label=_looks(explanation))]
    if rival is not None:
        handles.append(Patch(color=RIVAL, label=_looks(rival)))
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


def _looks(explanation: Explanation) -> str:
    seen = len(explanation.boxes)
    return f"{method_name(explanation.method)}, {f'mean over {seen} weighted views' if seen > 1 else 'whole picture'}"
