"""HTML reports: one self-contained file each, readable offline."""

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
from torch import Tensor

from crossalign import __version__
from crossalign.classifier import Classification, Classifier
from crossalign.classifier.scorer import Prediction
from crossalign.evaluation.results import Evaluation
from crossalign.evaluation.statistics import wilson_interval
from crossalign.evaluation.tables import TRANSDUCTIVE_NOTE, sentences
from crossalign.explanation import Explanation
from crossalign.images.decoding import ImageLike, read_image
from crossalign.text.descriptions import normalise_name

THUMBNAIL_PIXELS = 168
MAX_REASONS = 3
MAX_MATRIX_CLASSES = 40
"""A confusion matrix of more classes is not readable; the report then lists the most frequent confusions only."""


@dataclass(frozen=True)
class ReportedImage:
    """One image of a report.

    Attributes:
        name: name of the file.
        thumbnail: a data URI; None if the image could not be read.
        predictions: best first.
        margin: the best score minus the second best; -1 for an image that could not be read, which puts it first.
        reasons: the descriptions that contribute most to the score of the label.
        truth: the label of the image's folder, or None.
        error: why it could not be read, or None.
        reason: why an image that was read has no label, "unsure" or "other", or None.
    """

    name: str
    thumbnail: str | None
    predictions: tuple[Prediction, ...]
    margin: float
    reasons: tuple[str, ...]
    truth: str | None
    error: str | None
    reason: str | None = None

    @property
    def label(self) -> str | None:
        """The best label; None if the image has none."""
        return self.predictions[0].label if self.predictions and not self.reason else None

    @property
    def wrong(self) -> bool:
        """Whether the folder has another label."""
        return self.truth is not None and self.label is not None and self.truth != self.label


@dataclass(frozen=True)
class Truth:
    """Agreement of predicted labels with class folders.

    Attributes:
        right, total: number of right images, and of all.
        low, high: 95 % Wilson interval of the accuracy, in percent.
        pairs: the most frequent confusions (folder, predicted label, count).
        matrix: for each folder, (count, share of the folder) per predicted label; empty for many classes.
    """

    right: int
    total: int
    low: float
    high: float
    pairs: list[tuple[str, str, int]]
    matrix: list[tuple[str, list[tuple[int, float]]]]

    @property
    def accuracy(self) -> float:
        """Accuracy in percent."""
        return 100 * self.right / self.total


class Thumbnails:
    """Small copies of images, made while the images are decoded for their features, so that each is decoded once."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, tuple[int, int]]] = {}

    def add(self, image: ImageLike, pixels: Tensor) -> None:
        """Make the thumbnail of an image (3, H, W)."""
        self._made[str(image)] = (_thumbnail(pixels), (pixels.shape[2], pixels.shape[1]))

    def take(self, image: ImageLike) -> tuple[str, tuple[int, int]]:
        """Give a thumbnail as a data URI, and (width, height) of its image, which is decoded if it was not before."""
        if str(image) not in self._made:
            self.add(image, read_image(image))
        return self._made.pop(str(image))


def reported_image(
    result: Classification, thumbnail: str | None = None, explanation: Explanation | None = None
) -> ReportedImage:
    """Collect what a report shows of an image; an image that could not be read has neither thumbnail nor explanation."""
    name = result.image or "image"
    if explanation is None:
        return ReportedImage(name, None, (), -1.0, (), None, result.error)
    best = sorted(explanation.classes[0].reasons, key=lambda reason: reason.contribution, reverse=True)[:MAX_REASONS]
    reasons = tuple(reason.text for reason in best)
    return ReportedImage(name, thumbnail, result.predictions, explanation.margin, reasons, None, None, result.reason)


def images_report(classify: Classifier, rows: Sequence[ReportedImage]) -> str:
    """Lay out images and labels as HTML; with accuracy and confusions if every file is in a folder named as a label."""
    rows = _with_truth(rows, classify.labels)
    counts = Counter(row.label for row in rows if row.label is not None)
    return _render(
        "images.html",
        title="Labels of images",
        images=sorted(rows, key=lambda row: row.margin),
        labels=classify.labels,
        counts=counts.most_common(),
        failed=any(row.error for row in rows),
        truth=_truth(rows, classify.labels),
        method=classify.scorer.method.name,
        encoder=classify.encoder.name,
        version=__version__,
    )


def methods_report(evaluation: Evaluation) -> str:
    """Lay out an evaluation as HTML: accuracies with intervals, per method and per class."""
    result = evaluation.to_dict()
    methods = [
        {"name": row["method"], "top1": row["top1"], "low": row["ci95"][0], "high": row["ci95"][1], "n": row["n"]}
        for row in result["results"]
    ]
    classes = [(scored.method, _by_class(evaluation, (scored.ranks < 1).mean(axis=1))) for scored in evaluation.results]
    return _render(
        "methods.html",
        title=f"Methods on {evaluation.dataset.name}",
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


def _thumbnail(pixels: Tensor) -> str:
    small = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _with_truth(rows: Iterable[ReportedImage], labels: Sequence[str]) -> list[ReportedImage]:
    label_of_name = {normalise_name(label): label for label in labels}
    rows = list(rows)
    truths = [label_of_name.get(normalise_name(Path(row.name).parent.name)) for row in rows]
    if None in truths:
        return rows
    return [replace(row, truth=truth) for row, truth in zip(rows, truths, strict=True)]


def _truth(rows: Sequence[ReportedImage], labels: Sequence[str]) -> Truth | None:
    pairs = Counter((row.truth, row.label) for row in rows if row.truth is not None and row.label is not None)
    if not pairs:
        return None
    right, total = sum(count for (truth, label), count in pairs.items() if truth == label), pairs.total()
    low, high = wilson_interval(right, total)
    confused = [(str(truth), str(label), count) for (truth, label), count in pairs.most_common() if truth != label]
    matrix = []
    if len(labels) <= MAX_MATRIX_CLASSES:
        for truth in labels:
            counts = [pairs[truth, label] for label in labels]
            matrix.append((truth, [(count, count / max(1, sum(counts))) for count in counts]))
    return Truth(right, total, 100 * low, 100 * high, confused[:10], matrix)


def _by_class(evaluation: Evaluation, right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Accuracy per class, lowest first; `right` (N,) is the share of runs that are right on each image."""
    labels = np.array(evaluation.dataset.labels)
    rows = []
    for label, name in enumerate(evaluation.dataset.class_names):
        of_class = right[labels == label]
        if n := len(of_class):
            low, high = wilson_interval(float(of_class.sum()), n)
            rows.append({"name": name, "top1": 100 * of_class.mean(), "low": 100 * low, "high": 100 * high, "n": n})
    return sorted(rows, key=lambda row: (row["top1"], row["name"]))
