"""The similarity matrix of a class: views by descriptions."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossalign.explanation import Array, Explanation
from crossalign.images.decoding import ImageLike
from crossalign.reports.figures._names import method_name
from crossalign.reports.figures._page import BIG, EDGE, SMALL, Page, draw_image, open_image, text_height, wrap

MOST = 60
"""Largest number of views, and of descriptions."""
TEXT_WIDTH, CELLS_WIDTH, STRIP = 4.0, 12.0, 0.5
MIN_CELL, MAX_CELL = 0.24, 0.8


def matrix_figure(image: ImageLike, explanation: Explanation, label_index: int = 0) -> Figure:
    """Draw the similarity of every view with every description of a class, and the weights of both.

    Views are sorted by weight, descriptions by contribution; the first 60 of each are shown.

    Args:
        image: the explained image.
        explanation: the explanation of a method.
        label_index: the class, counted from the best.

    Raises:
        InputError: the image cannot be read.
    """
    pixels = open_image(image)
    evidence = explanation.classes[label_index]
    views = np.argsort(-explanation.view_weights, kind="stable")[:MOST]
    rows = np.argsort(-evidence.by_description, kind="stable")[:MOST]
    texts = [wrap(evidence.descriptions[row], TEXT_WIDTH - 0.2, most=3) for row in rows]
    cell = float(np.clip(CELLS_WIDTH / len(views), MIN_CELL, MAX_CELL))
    height = max(MIN_CELL, text_height(max(map(len, texts))) + 0.06) * len(rows)
    left, wide = EDGE + TEXT_WIDTH, cell * len(views)
    width = left + max(wide + STRIP + 0.1, 4.0) + EDGE
    title = f"{method_name(explanation.method)}: similarity of each view to each description of “{evidence.label}”"
    header = wrap(title, width - 2 * EDGE, BIG, bold=True, most=3)
    top = EDGE + text_height(len(header), BIG) + 0.3
    page = Page(width, top + STRIP + 0.08 + cell + 0.04 + height + 0.75)
    page.text(EDGE, EDGE, header, BIG, weight="bold")
    page.text(EDGE, top - 0.25, [_order(explanation, label_index)], color="0.4")
    _draw_weights(page.axes(left, top, wide, STRIP), explanation.view_weights[views], across=True)
    page.text(left - 0.1, top + STRIP / 2 - text_height(1), ["weight of", "each view"], ha="right")
    top += STRIP + 0.08
    for column, view in enumerate(views):
        axes = page.axes(left + (column + 0.04) * cell, top, 0.92 * cell, 0.92 * cell)
        draw_image(axes, pixels.crop(tuple(explanation.boxes[view].tolist())), cell)
    top += cell + 0.04
    axes = page.axes(left, top, wide, height)
    matrix = axes.imshow(evidence.similarity[np.ix_(views, rows)].T, cmap="cividis", aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks(range(len(rows)), ["\n".join(text) for text in texts], fontsize=SMALL, parse_math=False)
    axes.tick_params(length=0)
    _draw_weights(page.axes(left + wide + 0.08, top, STRIP, height), evidence.text_weights[rows], across=False)
    page.text(left + wide + 0.08, top - 0.04 - text_height(2), ["weight of", "each text"])
    page.colourbar(page.axes(left, top + height + 0.12, min(max(wide, 2.0), 4.0), 0.1), matrix, "similarity (cosine)")
    return page.figure


def _order(explanation: Explanation, label_index: int) -> str:
    views, texts = len(explanation.boxes), len(explanation.classes[label_index].descriptions)
    order = "The global view alone" if views == 1 else f"Views by weight, {_shown(views)}"
    return f"{order}; descriptions by contribution to the score, {_shown(texts)}."


def _shown(count: int) -> str:
    return f"the first {MOST} of {count}" if count > MOST else f"all {count}"


def _draw_weights(axes: Axes, weights: Array, across: bool) -> None:
    """Draw weights as bars beside the rows or columns of the matrix."""
    places = np.arange(len(weights)) + 0.5
    if across:
        axes.bar(places, weights, 0.8, color="0.45")
        axes.set_xlim(0, len(weights))
    else:
        axes.barh(places, weights, 0.8, color="0.45")
        axes.set_ylim(len(weights), 0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
