"""What the web page shows of an image's labels: the answer, reasons, the heat map, the views, and files to download."""

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
from PIL import Image, ImageDraw, ImageOps

from crossalign.classifier import CSV_HEADER, Classification
from crossalign.classifier.examples import ExampleImages
from crossalign.explanation import Array, ExampleMatch, Explanation

REASONS = 6
VIEWS = 18
PAIRS = 9
"""Views that are shown where each has the nearest view of an example beside it."""
TILE = 160
"""Pixels of either side of a pair."""


@dataclass(frozen=True)
class Shown:
    """What the page caches of an image between clicks.

    Attributes:
        result: its labels, or why there are none.
        content: a small copy of the image, see `thumbnails.reduced`; empty if it cannot be read.
        reasons: of its best labels; None if there are none.
        examples: the example images of the labels, or None.
        descriptions: where the texts come from; see `Classifier.descriptions_source`.
    """

    result: Classification
    content: bytes = b""
    reasons: Explanation | None = None
    examples: ExampleImages | None = None
    descriptions: str | None = None

    @property
    def image(self) -> Image.Image:
        """The small copy's pixels; grey if there is none."""
        if not self.content:
            return Image.new("RGB", (240, 180), "grey")
        return Image.open(io.BytesIO(self.content)).convert("RGB")

    @property
    def verdict(self) -> str:
        """The label, or why there is none, in a word or two."""
        if self.result.error:
            return "cannot be read"
        return self.result.label or NO_LABEL[str(self.result.reason)]


NO_LABEL = {"unsure": "unsure", "other": "none of these"}
"""What the page says in the place of a label, by `Classification.reason`."""


def answer_html(shown: Shown) -> str:
    """Say the best label and how far ahead it is, or why there is none."""
    result, reasons = shown.result, shown.reasons
    if reasons is None:
        return f"<p class='ca-failed'>{escape(result.error or '')}</p>"
    best, second = reasons.classes[:2]
    if result.label:
        lead = f"ahead of {escape(second.label)} by {reasons.margin:.3f}"
    else:
        nearest = ", ".join(f"{escape(p.label)} {100 * p.probability:.0f} %" for p in result.predictions[:3])
        lead = f"nearest labels: {nearest}"
        if result.reason == "other":
            lead = f"it looks most like {escape(best.label)}, which is no answer; {lead}"
    after = f"{'' if result.label else ','} after {result.views} views" if result.views else ""
    style = "ca-answer" if result.label else "ca-answer ca-none"
    kind, _, bundled = (shown.descriptions or "").partition(":")
    texts = f"; descriptions of the bundled file {escape(bundled)}" if kind == "bundled" else ""
    name = f"<small>{escape(result.image or '')}{texts}</small>"
    return f"<p class='{style}'><strong>{escape(shown.verdict)}</strong> <small>{lead}{after}</small><br>{name}</p>"


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
    """Name the label that another is compared with: the best, or for the best the runner-up."""
    return next(evidence.label for evidence in reasons.classes if evidence.label != label)


def heat_image(shown: Shown, label: str, view: int | None = None) -> Image.Image:
    """Lay what speaks for a label, and not for its rival, over the grey image, as the figures do; frame a view."""
    image, reasons = shown.image, shown.reasons
    assert reasons is not None
    heat = _heat(reasons, label, image.size[::-1])
    colours, low, high = _scale_of(heat)
    laid = 255 * colormaps[colours]((heat - low) / (high - low))[..., :3]
    share = (0.65 * (heat != 0))[..., None]
    grey = np.asarray(image.convert("L"))[..., None]
    laid_over = Image.fromarray(((1 - share) * grey + share * laid).astype(np.uint8))
    if view is not None:
        frame = [round(edge) for edge in reasons.boxes[view] * _reduction(image, reasons)]
        ImageDraw.Draw(laid_over).rectangle(frame, outline="black", width=6)
        ImageDraw.Draw(laid_over).rectangle(frame, outline="white", width=3)
    return laid_over


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
    """Number the views that add most to a label's score, as many as are shown."""
    evidence = reasons.evidence(label)
    return [int(view) for view in evidence.by_view.argsort()[::-1][: PAIRS if evidence.matches else VIEWS]]


def view_images(shown: Shown, label: str) -> list[tuple[Image.Image, str]]:
    """Crop the views that add most to a label's score, each with what it adds.

    With examples each has the nearest view of an example beside it, and the cosine of both in the place of what it adds.
    """
    image, reasons = shown.image, shown.reasons
    assert reasons is not None
    boxes = reasons.boxes * _reduction(image, reasons)
    evidence = reasons.evidence(label)
    tiles = []
    for view in strongest_views(reasons, label):
        left, top, right, bottom = boxes[view].round().astype(int).tolist()
        crop = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        if evidence.matches and shown.examples:
            tiles.append(_pair(crop, shown.examples, evidence.matches[view]))
        else:
            tiles.append((crop, f"{evidence.by_view[view]:+.4f}"))
    return tiles


def _pair(crop: Image.Image, examples: ExampleImages, match: ExampleMatch) -> tuple[Image.Image, str]:
    """Put a view and the nearest view of an example side by side."""
    nearest = Image.fromarray(examples.view(match.image, match.view).permute(1, 2, 0).numpy())
    pair = Image.new("RGBA", (2 * TILE + TILE // 20, TILE))
    for side, left in ((crop, 0), (nearest, pair.width - TILE)):
        pair.paste(ImageOps.pad(side.convert("RGBA"), (TILE, TILE), color=(0, 0, 0, 0)), (left, 0))
    return pair, f"{match.similarity:.2f} {examples.name(match.image)}"


def files_html(shown: Sequence[Shown]) -> str:
    """Offer the answers as JSON and CSV, laid out as `crossalign classify` prints them."""
    results = [each.result for each in shown]
    as_json = json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False)
    return (
        "<div class='ca-files'>"
        f"{_file('labels.json', 'application/json', as_json)}{_file('labels.csv', 'text/csv', _as_csv(results))}"
        "</div>"
    )


def _as_csv(results: Sequence[Classification]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_HEADER)
    for result in results:
        table.writerows(result.rows())
    return text.getvalue()


def _file(name: str, kind: str, text: str) -> str:
    """Put a file into a link, so that nothing is written on the server."""
    content = base64.b64encode(text.encode()).decode()
    return f"<a download='{name}' href='data:{kind};base64,{content}'>Download {name.split('.')[1].upper()}</a>"


def _reduction(image: Image.Image, reasons: Explanation) -> Array:
    across, down = image.width / reasons.size[0], image.height / reasons.size[1]
    return np.array([across, down, across, down])
