"""The upper half of an explanation: the image, the map of the evidence, and the views that contribute most."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle
from PIL import Image

from crossalign.classifier.examples import ExampleImages
from crossalign.explanation import Array, Explanation, Reason
from crossalign.reports.figures._names import method_name, percent, short
from crossalign.reports.figures._page import EDGE, LETTER, SMALL, Page, draw_image, text_height, wrap

MAX_WIDTH, MAX_HEIGHT, MIN_COLUMN = 3.0, 2.2, 1.8
"""Largest size of an image, and smallest width of its column, in inches."""
TITLE, LEGEND, GAP = 0.36, 0.6, 0.3
LABEL_WIDTH = 2.0
"""Width of the labels beside their bars, in inches."""
CROPS = 3
MAX_IOU = 0.4
"""Two views with a larger intersection over union show nearly the same."""
HEAT_CELLS = 256
"""Cells of the heat map along the longer side."""


def views_height(explanation: Explanation) -> float:
    """Height of what `draw_views` draws, in inches."""
    return TITLE + MAX_HEIGHT + (LEGEND if len(explanation.boxes) > 1 else 0) + 0.1


def draw_views(
    page: Page, top: float, image: Image.Image, explanation: Explanation, examples: ExampleImages | None = None
) -> None:
    """Draw the image (a) and, for a method with local views, the map (b) and the views that contribute most (c).

    With examples, each of these views has the nearest view of an example beside it.
    """
    width, height = image.size
    scale = min(MAX_WIDTH / width, MAX_HEIGHT / height)
    size = (max(0.05, width * scale), max(0.05, height * scale))
    column = max(size[0], MIN_COLUMN) + GAP
    original = page.axes(EDGE, top + TITLE, *size)
    draw_image(original, image.copy(), max(size), image.size)
    page.title(EDGE, top, "a", ["The image"])
    if len(explanation.boxes) == 1:
        _draw_labels(page, EDGE + column, top, explanation)
        return
    best, other = explanation.classes[:2]
    title = f"Evidence for “{short(best.label)}” against “{short(other.label)}”"
    page.title(EDGE + column, top, "b", wrap(title, column - GAP - LETTER, most=2))
    heat = _draw_heat(page.axes(EDGE + column, top + TITLE, *size), image, explanation, max(size))
    bar = page.axes(EDGE + column, top + TITLE + size[1] + 0.08, column - GAP, 0.1)
    page.colourbar(bar, heat, f"contribution per view to the margin of {explanation.margin:.3f}")
    _draw_strongest(page, EDGE + 2 * column, top, image, explanation, original, examples)


def _draw_labels(page: Page, left: float, top: float, explanation: Explanation) -> None:
    """Draw the probabilities of the best labels, for a method without local views."""
    page.title(left, top, "b", [f"{method_name(explanation.method)} uses the global view alone; its best labels"])
    texts = ["\n".join(wrap(evidence.label, LABEL_WIDTH - 0.1, most=2)) for evidence in explanation.classes]
    axes = page.axes(
        left + LABEL_WIDTH, top + TITLE, page.width - left - LABEL_WIDTH - EDGE - 0.5, min(MAX_HEIGHT, 0.4 * len(texts))
    )
    probabilities = [evidence.probability for evidence in explanation.classes]
    bars = axes.barh(range(len(texts)), probabilities, 0.5, color="0.45")
    axes.bar_label(bars, [percent(probability) for probability in probabilities], padding=3, fontsize=SMALL)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(texts) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(texts)), texts, fontsize=SMALL, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_heat(axes: Axes, image: Image.Image, explanation: Explanation, inches: float) -> ScalarMappable:
    """Draw the map of the evidence over the grey image; places outside all views stay grey."""
    width, height = image.size
    draw_image(axes, image.convert("L"), inches, image.size)
    share = min(1.0, HEAT_CELLS / max(width, height))
    heat = explanation.heat_map(shape=(max(1, round(height * share)), max(1, round(width * share))))
    most = max(float(np.abs(heat).max()), 1e-9)
    # A diverging colour map if there are negative values; otherwise a sequential one shows more detail.
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


def _draw_strongest(
    page: Page,
    left: float,
    top: float,
    image: Image.Image,
    explanation: Explanation,
    original: Axes,
    examples: ExampleImages | None,
) -> None:
    """Draw the strongest descriptions, each with the view that contributes most to it and its box in the image."""
    best = explanation.classes[0]
    title = f"The strongest descriptions of “{short(best.label)}”, each with its strongest view"
    if examples is not None:
        title = f"What adds most to “{short(best.label)}”: its strongest view, and the nearest view of an example"
    page.title(left, top, "c", wrap(title, page.width - left - EDGE - LETTER, most=2))
    pitch = (MAX_HEIGHT + LEGEND) / CROPS
    side = pitch - 0.1
    for row, (reason, view) in enumerate(_strongest(explanation)):
        y = top + TITLE + row * pitch
        box = tuple(explanation.boxes[view].tolist())
        draw_image(page.axes(left, y, side, side), image.crop(box), side)
        _draw_box(original, box, str(row + 1), max(image.size))
        beside = left + side + 0.1
        adds = [f"adds {reason.contribution:.3f} to the score of {best.score:.3f}"]
        if examples is not None:
            match = best.matches[view]
            pixels = examples.view(match.image, match.view).permute(1, 2, 0).numpy()
            draw_image(page.axes(beside - 0.04, y, side, side), Image.fromarray(pixels), side)
            beside += side + 0.06
            adds = [f"adds {reason.contribution:.3f} of {best.score:.3f}", f"cosine of the pair {match.similarity:.3f}"]
        page.text(beside, y, [str(row + 1)], weight="bold")
        beside += LETTER
        lines = wrap(reason.text, page.width - beside - EDGE, most=4 - len(adds) + 1)
        page.text(beside, y, lines)
        adds = [line for text in adds for line in wrap(text, page.width - beside - EDGE)]
        page.text(beside, y + text_height(len(lines)), adds, color="0.4")


def _strongest(explanation: Explanation) -> list[tuple[Reason, int]]:
    """Choose the strongest descriptions of the best class, each with the view that contributes most to it.

    No view comes twice. Views that show nearly the same as an earlier one are skipped while there are others.
    """
    best = explanation.classes[0]
    pairs: list[tuple[Reason, int]] = []
    unused, different = np.ones((2, len(explanation.boxes)), dtype=bool)
    for reason in sorted(best.reasons, key=lambda reason: -reason.contribution)[: min(CROPS, len(unused))]:
        contributions = best.contributions[:, list(reason.rows)].sum(1)
        view = int(np.where(different if different.any() else unused, contributions, -np.inf).argmax())
        unused[view] = False
        different &= unused & (_iou(explanation.boxes, explanation.boxes[view]) < MAX_IOU)
        pairs.append((reason, view))
    return pairs


def _iou(boxes: Array, box: Array) -> Array:
    """Intersection over union of boxes with one box: (M, 4) and (4,) to (M,)."""
    sides = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])).clip(0)
    intersection = sides.prod(1)
    return intersection / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - intersection)  # type: ignore[no-any-return]


def _draw_box(axes: Axes, box: tuple[int, ...], number: str, longest: int) -> None:
    left, top, right, bottom = box
    for colour, width in (("black", 2.4), ("white", 1.2)):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width))
    badge = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
    inset = 0.012 * longest
    axes.text(left + inset, top + inset, number, fontsize=SMALL - 1, va="top", ha="left", bbox=badge, zorder=5)
