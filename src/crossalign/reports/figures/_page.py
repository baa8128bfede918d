"""Figures whose parts are placed in inches, with text that is measured before it is drawn; no display is needed."""

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
"""Sizes of titles and of all else, in points."""
EDGE = 0.2
"""The page's margin, in inches."""
FORMATS = ("png", "svg", "pdf")
LETTER = 0.16
"""Inches between a panel's letter and its title."""
PIXELS = 200
"""That are drawn an inch."""


class Page:
    """A white page.

    Attributes:
        figure: what is drawn.
        width, height: in inches.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure((width, height), dpi=100, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Place axes, in inches from the upper left corner."""
        place = (left, self.height - top - height, width, height)
        share = (self.width, self.height, self.width, self.height)
        return self.figure.add_axes(tuple(p / s for p, s in zip(place, share, strict=True)))  # type: ignore[arg-type]

    def text(self, left: float, top: float, lines: Sequence[str], size: float = SMALL, **style: Any) -> None:
        """Write lines as they stand (no formulas in them), each on its own baseline, so that neighbours align."""
        for row, line in enumerate(lines):
            place = (left / self.width, 1 - (top + text_height(row + 0.75, size)) / self.height)
            self.figure.text(*place, line, fontsize=size, va="baseline", parse_math=False, **style)

    def title(self, left: float, top: float, letter: str, lines: Sequence[str]) -> None:
        """Title a panel by its letter and some lines."""
        self.text(left, top, [letter], weight="bold")
        self.text(left + LETTER, top, lines)

    def colourbar(self, axes: Axes, shown: ScalarMappable, label: str) -> None:
        """Fill axes with the legend of a colour map."""
        bar = self.figure.colorbar(shown, cax=axes, orientation="horizontal")
        bar.ax.tick_params(labelsize=SMALL, length=2, pad=1)
        bar.ax.locator_params(nbins=4)
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        bar.ax.set_xlabel(label, fontsize=SMALL, labelpad=2, parse_math=False)


def open_picture(image: ImageLike) -> Image.Image:
    """Read a picture as it is drawn."""
    return Image.fromarray(read_image(image).permute(1, 2, 0).numpy())


def draw_picture(axes: Axes, picture: Image.Image, inches: float, size: tuple[int, int] | None = None) -> None:
    """Show a picture in a thin frame.

    Args:
        axes: where.
        picture: RGB or grey; it is shrunk in place.
        inches: of its longer side; no more pixels are taken than print shows, so that vector files stay small.
        size: (width, height) that the axes' coordinates count; by default the picture's pixels.
    """
    width, height = size or picture.size
    picture.thumbnail((round(inches * PIXELS),) * 2, Image.Resampling.LANCZOS)
    axes.imshow(np.asarray(picture), extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)


def wrap(text: str, width: float, size: float = SMALL, *, most: int | None = None, bold: bool = False) -> list[str]:
    """Break text into lines.

    Args:
        text: words; one that is too long for a line is broken too.
        width: of a line, in inches.
        size: of the font, in points.
        most: lines; what does not fit them is cut, and an ellipsis says so.
        bold: whether the font is.
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
    """Say how many inches some lines take."""
    return lines * size * 1.4 / 72


@lru_cache(maxsize=4096)
def text_width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """Measure a line in inches."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    points: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return points / 72


def figure_bytes(figure: Figure, format: str, dpi: int = 150) -> bytes:
    """Give a figure as a file's content: "png", "svg" or "pdf"; the same figure gives the same bytes."""
    content = io.BytesIO()
    settings: dict[str, dict[str, Any]] = {
        "png": {"dpi": dpi, "pil_kwargs": {"optimize": True}},
        "svg": {"dpi": dpi, "metadata": {"Date": None}},
        "pdf": {"dpi": dpi, "metadata": {"CreationDate": None}},
    }
    # Hinted letters are wider than measured; and journals refuse Type 3 fonts, matplotlib's default.
    with matplotlib.rc_context({"text.hinting": "none", "pdf.fonttype": 42, "svg.hashsalt": "crossalign"}):
        figure.savefig(content, format=format, **settings[format])
    return content.getvalue()
