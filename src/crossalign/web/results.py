"""What the web page shows of a picture's labels: bars, reasons, the heat map, the views, and files to take away."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image, ImageDraw

from crossalign.classifier import CSV_HEADER, Classification
from crossalign.explanation import Array, Explanation

SIDE = 960
"""Pixels of the longer side of a picture that is kept for showing."""
REASONS = 6
VIEWS = 18


@dataclass(frozen=True)
class Shown:
    """What the page keeps of a picture between clicks.

    Attributes:
        found: its labels, or why there are none.
        picture: WebP, no longer than `SIDE`; empty if it cannot be read.
        reasons: of its best labels; None if there are none.
    """

    found: Classification
    picture: bytes = b""
    reasons: Explanation | None = None

    @property
    def image(self) -> Image.Image:
        """The picture's pixels, reduced; grey if there are none."""
        if not self.picture:
            return Image.new("RGB", (240, 180), "grey")
        return Image.open(io.BytesIO(self.picture)).convert("RGB")


def reduced(pixels: Array) -> bytes:
    """Reduce (H, W, 3) pixels to what the page keeps."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "webp", quality=85)
    return file.getvalue()


def answer_html(shown: Shown) -> str:
    """Say the best label and how far ahead it is, or why there is none."""
    name = f"<small>{escape(shown.found.image or '')}</small>"
    if shown.reasons is None:
        return f"<p class='ca-failed'>{escape(shown.found.error or '')}</p>"
    best, second = shown.found.predictions[:2]
    after = f" after {shown.found.views} views" if shown.found.views else ""
    lead = f"<small>ahead of {escape(second.label)} by {best.score - second.score:.3f}{after}</small>"
    return f"<p class='ca-answer'><strong>{escape(best.label)}</strong> {lead}<br>{name}</p>"


def reasons_html(reasons: Explanation, label: str) -> str:
    """List what adds most to a label's score."""
    evidence = reasons.evidence(label)
    strongest = sorted(evidence.reasons, key=lambda reason: -reason.contribution)[:REASONS]
    longest = max(strongest[0].contribution, 1e-9)
    rows = "".join(
        f"<li><span class='row'><span>{escape(r.text)}</span><span class='number'>{r.contribution:+.3f}</span></span>"
        f"<span class='bar' style='width: {100 * max(r.contribution, 0) / longest:.1f}%'></span></li>"
        for r in strongest
    )
    left = len(evidence.reasons) - len(strongest)
    rest = f"<p><small>and {left} more; all together {evidence.score:.3f}</small></p>" if left else ""
    return f"<ul class='ca-reasons'>{rows}</ul>{rest}"


def rival(reasons: Explanation, label: str) -> str:
    """Name the label that another is held against: the best, or for the best the runner-up."""
    return next(evidence.label for evidence in reasons.classes if evidence.label != label)


def heat_picture(shown: Shown, label: str, view: int | None = None) -> Image.Image:
    """Lay what speaks for a label, and not for its rival, over the grey picture, as the figures do; frame a view."""
    image, reasons = shown.image, shown.reasons
    assert reasons is not None
    heat = _heat(reasons, label, image.size[::-1])
    colours, low, high = _scale_of(heat)
    laid = 255 * colormaps[colours]((heat - low) / (high - low))[..., :3]
    share = (0.65 * (heat != 0))[..., None]
    grey = np.asarray(image.convert("L"))[..., None]
    picture = Image.fromarray(((1 - share) * grey + share * laid).astype(np.uint8))
    if view is not None:
        frame = [round(edge) for edge in reasons.boxes[view] * _reduction(image, reasons)]
        ImageDraw.Draw(picture).rectangle(frame, outline="black", width=6)
        ImageDraw.Draw(picture).rectangle(frame, outline="white", width=3)
    return picture


def legend_html(reasons: Explanation, label: str) -> str:
    """Say what the heat map's colours mean."""
    width, height = reasons.size
    colours, low, high = _scale_of(_heat(reasons, label, (max(1, 256 * height // max(width, height)), 256)))
    stops = ", ".join(to_hex(colour) for colour in colormaps[colours](np.linspace(0, 1, 9)))
    what = f"added per view to <b>{escape(label)}</b>'s lead over <b>{escape(rival(reasons, label))}</b>"
    return (
        f"<div class='ca-legend'><span>{low:.4f}</span>"
        f"<span class='scale' role='presentation' style='background: linear-gradient(90deg, {stops})'></span>"
        f"<span>{high:.4f}</span><small>{what}</small></div>"
    )


def _heat(reasons: Explanation, label: str, shape: tuple[int, int]) -> Array:
    names = [evidence.label for evidence in reasons.classes]
    return reasons.heat_map(names.index(label), names.index(rival(reasons, label)), shape)


def _scale_of(heat: Array) -> tuple[str, float, float]:
    """Choose the colours and their ends: diverging where some places speak against the label."""
    most = max(float(np.abs(heat).max()), 1e-9)
    return ("PuOr_r", -most, most) if heat.min() < 0 else ("cividis", 0.0, most)


def strongest_views(reasons: Explanation, label: str) -> list[int]:
    """Number the views that add most to a label's score."""
    return [int(view) for view in reasons.evidence(label).by_view.argsort()[::-1][:VIEWS]]


def view_pictures(shown: Shown, label: str) -> list[tuple[Image.Image, str]]:
    """Cut the views that add most to a label's score, each with what it adds."""
    image, reasons = shown.image, shown.reasons
    assert reasons is not None
    boxes = reasons.boxes * _reduction(image, reasons)
    adds = reasons.evidence(label).by_view
    crops = []
    for view in strongest_views(reasons, label):
        left, top, right, bottom = boxes[view].round().astype(int).tolist()
        crop = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        crops.append((crop, f"{adds[view]:+.4f}"))
    return crops


def files_html(shown: Sequence[Shown]) -> str:
    """Offer the answers as JSON and CSV, laid out as `crossalign classify` prints them."""
    found = [one.found for one in shown]
    as_json = json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False)
    return (
        "<div class='ca-files'>"
        f"{_file('labels.json', 'application/json', as_json)}{_file('labels.csv', 'text/csv', _as_csv(found))}"
        "</div>"
    )


def _as_csv(found: Sequence[Classification]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_HEADER)
    for one in found:
        table.writerows(one.rows())
    return text.getvalue()


def _file(name: str, kind: str, text: str) -> str:
    """Put a file into a link, so that nothing is written on the server."""
    content = base64.b64encode(text.encode()).decode()
    return f"<a download='{name}' href='data:{kind};base64,{content}'>Download {name.split('.')[1].upper()}</a>"


def _reduction(image: Image.Image, reasons: Explanation) -> Array:
    across, down = image.width / reasons.size[0], image.height / reasons.size[1]
    return np.array([across, down, across, down])
