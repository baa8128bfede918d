"""Explanations as figures, for a screen, a document or a paper."""

from __future__ import annotations

from itertools import accumulate

from matplotlib.figure import Figure

from crossalign.explanation import Explanation
from crossalign.images.decoding import ImageLike
from crossalign.reports.figures._bars import OURS, RIVAL, draw_legend, draw_panel, panel
from crossalign.reports.figures._matrix import matrix_figure
from crossalign.reports.figures._names import verdict
from crossalign.reports.figures._page import BIG, EDGE, FORMATS, Page, figure_bytes, open_picture, text_height, wrap
from crossalign.reports.figures._pictures import draw_pictures, pictures_height

__all__ = ["FORMATS", "explanation_figure", "figure_bytes", "matrix_figure"]

WIDTH = 10.0
"""Inches."""


def explanation_figure(image: ImageLike, explanation: Explanation, rival: Explanation | None = None) -> Figure:
    """Draw why a picture got its label: where the evidence lies, which views and descriptions speak for it.

    Args:
        image: the explained picture.
        explanation: of the method in question.
        rival: of another method. Each of the two must explain the other's best label too (`explain`'s `also`).

    Raises:
        InputError: the picture cannot be read, or one of the two lacks the other's best label.
    """
    picture = open_picture(image)
    methods = [(explanation, OURS)] if rival is None else [(explanation, OURS), (rival, RIVAL)]
    labels = dict.fromkeys(method.classes[0].label for method, _ in methods)
    panels = [panel(explanation, rival, label, WIDTH) for label in labels]
    header = [
        (line, colour) for method, colour in methods for line in wrap(verdict(method), WIDTH - 2 * EDGE, BIG, bold=True)
    ]
    heights = [
        EDGE + text_height(len(header), BIG) + 0.1,
        pictures_height(explanation),
        *(of_class.height for of_class in panels),
        0.4,
    ]
    tops = list(accumulate(heights))
    page = Page(WIDTH, tops[-1])
    for row, (line, colour) in enumerate(header):
        page.text(EDGE, EDGE + text_height(row, BIG), [line], BIG, color=colour, weight="bold")
    draw_pictures(page, tops[0], picture, explanation)
    # All panels count the same similarities by the same inches.
    limits = (min(of_class.low for of_class in panels), max(of_class.high for of_class in panels))
    letters = "de" if len(explanation.boxes) > 1 else "cd"
    for letter, top, of_class in zip(letters, tops[1:], panels, strict=False):
        draw_panel(page, top, of_class, letter, limits)
    draw_legend(page, tops[-2], explanation, rival)
    return page.figure
