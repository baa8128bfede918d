"""The upper half of an explanation: the picture, the evidence laid over it, and the views that speak most."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle
from PIL import Image

from crossalign.explanation import Array, Explanation, Reason
from crossalign.reports.figures._names import method_name, percent, short
from crossalign.reports.figures._page import EDGE, LETTER, SMALL, Page, draw_picture, text_height, wrap

WIDEST, HIGHEST, NARROWEST = 3.0, 2.2, 1.8
"""Inches that a picture, and a column of one, may take."""
TITLE, LEGEND, GAP = 0.36, 0.6, 0.3
LABELS = 2.0
"""Inches for labels beside their bars."""
CROPS = 3
SAME = 0.4
"""Share of their joint area from which on two views are thought to show the same."""
FINEST = 256
"""Cells of the heat map along the longer side."""


def pictures_height(explanation: Explanation) -> float:
    """Say how many inches `draw_pictures` takes."""
    return TITLE + HIGHEST + (LEGEND if len(explanation.boxes) > 1 else 0) + 0.1


def draw_pictures(page: Page, top: float, picture: Image.Image, explanation: Explanation) -> None:
    """Draw the picture (a), and for a method with views where the evidence lies (b) and which views speak most (c)."""
    width, height = picture.size
    scale = min(WIDEST / width, HIGHEST / height)
    size = (max(0.05, width * scale), max(0.05, height * scale))
    column = max(size[0], NARROWEST) + GAP
    original = page.axes(EDGE, top + TITLE, *size)
    draw_picture(original, picture.copy(), max(size), picture.size)
    page.title(EDGE, top, "a", ["The picture"])
    if len(explanation.boxes) == 1:
        _draw_labels(page, EDGE + column, top, explanation)
        return
    best, other = explanation.classes[:2]
    title = f"Where it looks more like “{short(best.label)}” than like “{short(other.label)}”"
    page.title(EDGE + column, top, "b", wrap(title, column - GAP - LETTER, most=2))
    shown = _draw_heat(page.axes(EDGE + column, top + TITLE, *size), picture, explanation, max(size))
    bar = page.axes(EDGE + column, top + TITLE + size[1] + 0.08, column - GAP, 0.1)
    page.colourbar(bar, shown, f"added per view to the lead of {explanation.margin:.3f}")
    _draw_views(page, EDGE + 2 * column, top, picture, explanation, original)


def _draw_labels(page: Page, left: float, top: float, explanation: Explanation) -> None:
    """Draw, for a method that has no views to show, how probable each of the best labels is."""
    page.title(left, top, "b", [f"{method_name(explanation.method)} sees the picture as a whole; its best labels"])
    texts = ["\n".join(wrap(of_class.label, LABELS - 0.1, most=2)) for of_class in explanation.classes]
    axes = page.axes(left + LABELS, top + TITLE, page.width - left - LABELS - EDGE - 0.5, min(HIGHEST, 0.4 * len(texts)))
    bars = axes.barh(range(len(texts)), [of_class.probability for of_class in explanation.classes], 0.5, color="0.45")
    axes.bar_label(bars, [percent(of_class.probability) for of_class in explanation.classes], padding=3, fontsize=SMALL)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(texts) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(texts)), texts, fontsize=SMALL, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_heat(axes: Axes, picture: Image.Image, explanation: Explanation, inches: float) -> ScalarMappable:
    """Lay the evidence over the grey picture; where no view looks, the picture stays grey."""
    width, height = picture.size
    draw_picture(axes, picture.convert("L"), inches, picture.size)
    share = min(1.0, FINEST / max(width, height))
    heat = explanation.heat_map(shape=(max(1, round(height * share)), max(1, round(width * share))))
    most = max(float(np.abs(heat).max()), 1e-9)
    # What speaks for both sides takes a diverging map; else a sequential one shows more.
    low, colours = (-most, "PuOr_r") if heat.min() < 0 else (0.0, "cividis")
    axes.imshow(
        heat,
        extent=(0, width, height, 0),
        cmap=colours,
        vmin=low,
        vmax=most,
        alpha=0.65 * (heat != 0),
        interpolation="bilinear",
        aspect="auto",
    )
    legend = ScalarMappable(cmap=colours)
    legend.set_clim(low, most)
    return legend


def _draw_views(page: Page, left: float, top: float, picture: Image.Image, explanation: Explanation, original: Axes) -> None:
    """Draw beside each of the strongest descriptions the view that speaks most for it, and its box in the picture."""
    best = explanation.classes[0]
    title = f"The strongest descriptions of “{short(best.label)}”, each with its strongest view"
    page.title(left, top, "c", wrap(title, page.width - left - EDGE - LETTER, most=2))
    pitch = (HIGHEST + LEGEND) / CROPS
    side = pitch - 0.1
    for row, (reason, view) in enumerate(_strongest(explanation)):
        y = top + TITLE + row * pitch
        box = tuple(explanation.boxes[view].tolist())
        draw_picture(page.axes(left, y, side, side), picture.crop(box), side)
        _draw_box(original, box, str(row + 1), max(picture.size))
        page.text(left + side + 0.1, y, [str(row + 1)], weight="bold")
        lines = wrap(reason.text, page.width - left - side - 0.1 - LETTER - EDGE, most=4)
        page.text(left + side + 0.1 + LETTER, y, lines)
        adds = f"adds {reason.contribution:.3f} to the score of {best.score:.3f}"
        page.text(left + side + 0.1 + LETTER, y + text_height(len(lines)), [adds], color="0.4")


def _strongest(explanation: Explanation) -> list[tuple[Reason, int]]:
    """Pick the strongest descriptions of the best class, with the view that adds most to each.

    No view comes twice, and where there is another, none that shows more or less the same as one before it.
    """
    best = explanation.classes[0]
    pairs: list[tuple[Reason, int]] = []
    free, fresh = np.ones((2, len(explanation.boxes)), dtype=bool)
    for reason in sorted(best.reasons, key=lambda reason: -reason.contribution)[: min(CROPS, len(free))]:
        adds = best.contributions[:, list(reason.rows)].sum(1)
        view = int(np.where(fresh if fresh.any() else free, adds, -np.inf).argmax())
        free[view] = False
        fresh &= free & (_shared(explanation.boxes, explanation.boxes[view]) < SAME)
        pairs.append((reason, view))
    return pairs


def _shared(boxes: Array, box: Array) -> Array:
    """The share of two boxes' joint area that both cover: (M, 4) and (4,) to (M,)."""
    sides = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])).clip(0)
    both = sides.prod(1)
    return both / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - both)  # type: ignore[no-any-return]


def _draw_box(axes: Axes, box: tuple[int, ...], number: str, longest: int) -> None:
    left, top, right, bottom = box
    for colour, width in (("black", 2.4), ("white", 1.2)):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width))
    badge = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
    inset = 0.012 * longest
    axes.text(left + inset, top + inset, number, fontsize=SMALL - 1, va="top", ha="left", bbox=badge, zorder=5)
