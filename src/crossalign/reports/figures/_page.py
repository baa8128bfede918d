"""A page with parts placed in inches and text measured before it is drawn; needs no display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image

from crossalign.images.decoding import ImageLike, read_image

BIG, SMALL = 11.0, 8.0
"""Font sizes of titles and of other text, in points."""
EDGE = 0.2
"""Margin of the page, in inches."""
FORMATS = ("png", "svg", "pdf")
LETTER = 0.16
"""Distance between a panel's letter and its title, in inches."""
IMAGE_DPI = 200
"""Resolution of embedded images, in pixels per inch; more would only make vector files larger."""


class Page:
    """A white page.

    Attributes:
        figure: the matplotlib figure.
        width, height: size in inches.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure((width, height), dpi=100, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes, placed in inches from the upper left corner."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def text(self, left: float, top: float, lines: Sequence[str], size: float = SMALL, **style: Any) -> None:
        """Write lines of plain text, each on its own baseline, so that columns side by side align."""
        for row, line in enumerate(lines):
            place = (left / self.width, 1 - (top + text_height(row + 0.75, size)) / self.height)
            self.figure.text(*place, line, fontsize=size, va="baseline", parse_math=False, **style)

    def title(self, left: float, top: float, letter: str, lines: Sequence[str]) -> None:
        """Write the letter of a panel and its title."""
        self.text(left, top, [letter], weight="bold")
        self.text(left + LETTER, top, lines)

    def colourbar(self, axes: Axes, values: ScalarMappable, label: str) -> None:
        """Draw a colour bar into axes."""
        bar = self.figure.colorbar(values, cax=axes, orientation="horizontal")
        bar.ax.tick_params(labelsize=SMALL, length=2, pad=1)
        bar.ax.locator_params(nbins=4)
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        bar.ax.set_xlabel(label, fontsize=SMALL, labelpad=2, parse_math=False)


def open_image(image: ImageLike) -> Image.Image:
    """Read an image to draw."""
    return Image.fromarray(read_image(image).permute(1, 2, 0).numpy())


def draw_image(axes: Axes, image: Image.Image, inches: float, size: tuple[int, int] | None = None) -> None:
    """Draw an image in a thin frame.

    Args:
        axes: where to draw.
        image: RGB or grey; it is shrunk in place to `IMAGE_DPI`.
        inches: length of its longer side on the page.
        size: (width, height) of the axes' coordinates; by default the image's size in pixels.
    """
    width, height = size or image.size
    image.thumbnail((round(inches * IMAGE_DPI),) * 2, Image.Resampling.LANCZOS)
    axes.imshow(np.asarray(image), extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)


def wrap(text: str, width: float, size: float = SMALL, *, most: int | None = None, bold: bool = False) -> list[str]:
    """Break text into lines.

    Args:
        text: the text; words longer than a line are broken too.
        width: width of a line, in inches.
        size: font size, in points.
        most: largest number of lines; longer text ends with an ellipsis.
        bold: whether the font is bold.
    """
    lines = [""]
    for word in filter(None, text.split(" ")):
        joined = f"{lines[-1]} {word}".lstrip()
        if text_width(joined, size, bold) <= width:
            lines[-1] = joined
            continue
        if not lines[-1]:
            lines.pop()
        while text_width(word, size, bold) > width and len(word) > 1:
            fitting = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or text_width(word[:n], size, bold) <= width)
            lines.append(word[:fitting])
            word = word[fitting:]
        lines.append(word)
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and text_width(f"{last}…", size, bold) > width:
        last = last[:-1].rstrip()
    return [*lines[: most - 1], f"{last}…"]


def text_height(lines: float, size: float = SMALL) -> float:
    """Height of some lines, in inches."""
    return lines * size * 1.4 / 72


@lru_cache(maxsize=4096)
def text_width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """Width of a line, in inches."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    points: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return points / 72


def figure_bytes(figure: Figure, format: str, dpi: int = 150) -> bytes:
    """Content of a "png", "svg" or "pdf" file with the figure; the same figure gives the same bytes."""
    content = io.BytesIO()
    settings: dict[str, dict[str, Any]] = {
        "png": {"dpi": dpi, "pil_kwargs": {"optimize": True}},
        "svg": {"dpi": dpi, "metadata": {"Date": None}},
        "pdf": {"dpi": dpi, "metadata": {"CreationDate": None}},
    }
    # Hinted text is wider than measured. Journals refuse Type 3 fonts, matplotlib's default.
    with matplotlib.rc_context({"text.hinting": "none", "pdf.fonttype": 42, "svg.hashsalt": "crossalign"}):
        figure.savefig(content, format=format, **settings[format])
    return content.getvalue()
