"""Explanations as figures, for screens and for papers."""

from __future__ import annotations

from itertools import accumulate

from crossalign.errors import InputError

try:
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise InputError(f"a figure needs {error.name}; run `pip install 'crossalign[figures]'`") from None

from crossalign.classifier.examples import ExampleImages
from crossalign.explanation import Explanation
from crossalign.images.decoding import ImageLike
from crossalign.reports.figures._bars import FIRST_COLOUR, RIVAL_COLOUR, draw_legend, draw_panel, panel
from crossalign.reports.figures._matrix import matrix_figure
from crossalign.reports.figures._names import verdict
from crossalign.reports.figures._page import BIG, EDGE, FORMATS, Page, figure_bytes, open_image, text_height, wrap
from crossalign.reports.figures._views import draw_views, views_height

__all__ = ["FORMATS", "explanation_figure", "figure_bytes", "matrix_figure"]

WIDTH = 10.0
"""Width of the figure, in inches."""


def explanation_figure(
    image: ImageLike,
    explanation: Explanation,
    rival: Explanation | None = None,
    examples: ExampleImages | None = None,
) -> Figure:
    """Draw an explanation: a map of the evidence, the views and descriptions that contribute most, and all similarities.

    The parts are placed in inches, from measured text, because rows of the bar charts must be as high as their wrapped text.

    Args:
        image: the explained image.
        explanation: the explanation of the method.
        rival: the explanation of a second method, for comparison. Each of the two must explain the best label of the other
            (argument `also` of `explain`).
        examples: the examples of the classifier, if it has any; their nearest views are shown.

    Raises:
        InputError: the image cannot be read, or one explanation lacks the other's best label.
    """
    pixels = open_image(image)
    methods = [(explanation, FIRST_COLOUR)]
    if rival is not None:
        methods.append((rival, RIVAL_COLOUR))
    labels = dict.fromkeys(method.classes[0].label for method, _ in methods)
    panels = [panel(explanation, rival, label, WIDTH) for label in labels]
    header = [
        (line, colour) for method, colour in methods for line in wrap(verdict(method), WIDTH - 2 * EDGE, BIG, bold=True)
    ]
    heights = [
        EDGE + text_height(len(header), BIG) + 0.1,
        views_height(explanation),
        *(class_panel.height for class_panel in panels),
        0.4,
    ]
    tops = list(accumulate(heights))
    page = Page(WIDTH, tops[-1])
    for row, (line, colour) in enumerate(header):
        page.text(EDGE, EDGE + text_height(row, BIG), [line], BIG, color=colour, weight="bold")
    draw_views(page, tops[0], pixels, explanation, examples)
    # All panels have the same scale.
    limits = (min(class_panel.low for class_panel in panels), max(class_panel.high for class_panel in panels))
    letters = "de" if len(explanation.boxes) > 1 else "cd"
    for letter, top, class_panel in zip(letters, tops[1:], panels, strict=False):
        draw_panel(page, top, class_panel, letter, limits)
    draw_legend(page, tops[-2], explanation, rival)
    return page.figure
