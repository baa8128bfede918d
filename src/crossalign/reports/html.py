"""Reports: one self-contained HTML file that opens offline."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from crossalign import __version__
from crossalign.classifier import Classification, Classifier, Prediction
from crossalign.evaluation.evaluate import Evaluation
from crossalign.evaluation.statistics import wilson_interval
from crossalign.evaluation.tables import TRANSDUCTIVE_NOTE, sentences
from crossalign.explanation import Explanation
from crossalign.images.decoding import ImageLike, read_image
from crossalign.text.descriptions import normalise_name

THUMBNAIL = 168
REASONS = 3
LARGEST_MATRIX = 40
"""Classes up to which a confusion matrix can be read; beyond them the pairs most often confused must do."""


@dataclass(frozen=True)
class ReportedPicture:
    """A row of the report on pictures.

    Attributes:
        name: of the file.
        thumbnail: a data URI, or None if there is no picture to show.
        predictions: best first.
        margin: the best score minus the runner-up's; -1 for a picture that could not be read, so that it comes first.
        reasons: the descriptions that speak most for the label.
        truth: the label that its folder names, or None.
        error: why it could not be read, or None.
    """

    name: str
    thumbnail: str | None
    predictions: tuple[Prediction, ...]
    margin: float
    reasons: tuple[str, ...]
    truth: str | None
    error: str | None

    @property
    def label(self) -> str | None:
        """The best label, or None if there was an error."""
        return self.predictions[0].label if self.predictions else None

    @property
    def wrong(self) -> bool:
        """Whether its folder names another label."""
        return self.truth is not None and self.label is not None and self.truth != self.label


@dataclass(frozen=True)
class Truth:
    """How labels agree with class folders; the matrix has (count, share of the folder) in each cell."""

    right: int
    total: int
    low: float
    high: float
    pairs: list[tuple[str, str, int]]
    matrix: list[tuple[str, list[tuple[int, float]]]]

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.right / self.total


def reported_picture(image: ImageLike, found: Classification, explanation: Explanation | None) -> ReportedPicture:
    """Make a row of what was found for a picture; `explanation` is None if it could not be read."""
    name = found.image or "picture"
    if explanation is None:
        return ReportedPicture(name, None, (), -1.0, (), None, found.error)
    best = sorted(explanation.classes[0].reasons, key=lambda reason: reason.contribution, reverse=True)[:REASONS]
    reasons = tuple(reason.text for reason in best)
    return ReportedPicture(name, _thumbnail(image), found.predictions, explanation.margin, reasons, None, None)


def pictures_report(classify: Classifier, rows: Sequence[ReportedPicture]) -> str:
    """Lay pictures and their labels out as HTML; where every file lies in a folder named as a label, also how they agree."""
    rows = _with_truth(rows, classify.labels)
    counts = Counter(row.label for row in rows if row.label is not None)
    return _render(
        "pictures.html",
        title="Labels of pictures",
        pictures=sorted(rows, key=lambda row: row.margin),
        labels=classify.labels,
        counts=counts.most_common(),
        failed=any(row.error for row in rows),
        truth=_truth(rows, classify.labels),
        method=classify.method.name,
        encoder=classify.encoder.name,
        version=__version__,
    )


def methods_report(done: Evaluation) -> str:
    """Lay an evaluation out as HTML: accuracies with intervals, by method and by class."""
    result = done.to_dict()
    methods = [
        {"name": row["method"], "top1": row["top1"], "low": row["ci95"][0], "high": row["ci95"][1], "n": row["n"]}
        for row in result["results"]
    ]
    classes = [(found.method, _by_class(done, (found.ranks < 1).mean(axis=1))) for found in done.results]
    return _render(
        "methods.html",
        title=f"Methods on {done.dataset.name}",
        result=result,
        methods=methods,
        classes=classes,
        sentences=sentences(result),
        together=result.get("transductive", []),
        transductive_note=TRANSDUCTIVE_NOTE,
    )


def _render(template: str, **values: Any) -> str:
    environment = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(values)


def _thumbnail(image: ImageLike) -> str:
    small = Image.fromarray(read_image(image).permute(1, 2, 0).numpy())
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _with_truth(rows: Iterable[ReportedPicture], labels: Sequence[str]) -> list[ReportedPicture]:
    known = {normalise_name(label): label for label in labels}
    rows = list(rows)
    truths = [known.get(normalise_name(Path(row.name).parent.name)) for row in rows]
    if None in truths:
        return rows
    return [replace(row, truth=truth) for row, truth in zip(rows, truths, strict=True)]


def _truth(rows: Sequence[ReportedPicture], labels: Sequence[str]) -> Truth | None:
    pairs = Counter((row.truth, row.label) for row in rows if row.truth is not None and row.label is not None)
    if not pairs:
        return None
    right, total = sum(count for (own, label), count in pairs.items() if own == label), pairs.total()
    low, high = wilson_interval(right, total)
    confused = [(str(own), str(label), count) for (own, label), count in pairs.most_common() if own != label]
    matrix = []
    if len(labels) <= LARGEST_MATRIX:
        for own in labels:
            counts = [pairs[own, label] for label in labels]
            matrix.append((own, [(count, count / max(1, sum(counts))) for count in counts]))
    return Truth(right, total, 100 * low, 100 * high, confused[:10], matrix)


def _by_class(done: Evaluation, hits: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    labels = np.array(done.dataset.labels)
    rows = []
    for label, name in enumerate(done.dataset.class_names):
        own = hits[labels == label]
        if len(own):
            low, high = wilson_interval(float(own.sum()), len(own))
            rows.append({"name": name, "top1": 100 * own.mean(), "low": 100 * low, "high": 100 * high, "n": len(own)})
    return sorted(rows, key=lambda row: (row["top1"], row["name"]))
