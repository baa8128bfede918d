"""Measure a classifier as it answers users, on labelled images, and calibrate its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.classifier.calibration import Calibration
from crossalign.datasets import ImageDataset
from crossalign.errors import InputError
from crossalign.evaluation.statistics import wilson_interval
from crossalign.features.pipeline import Progress, silent
from crossalign.methods.examples import fit_logit_scale


@dataclass(frozen=True)
class Answers:
    """The scores of labelled images.

    Attributes:
        scores: (N, C).
        labels: (N,) the true classes.
        views: mean number of local views per image.
    """

    scores: Tensor
    labels: Tensor
    views: float

    @property
    def right(self) -> int:
        """Number of images whose best label is the true one."""
        return int((self.scores.argmax(1) == self.labels).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.right, len(self.labels))


def measure_answers(classify: Classifier, dataset: ImageDataset, progress: Progress = silent) -> Answers:
    """Classify all images of a dataset.

    Args:
        classify: its labels are the dataset's classes, in whatever order.
        dataset: labelled images.
        progress: shown meanwhile.

    Raises:
        InputError: an image cannot be read.
    """
    rows, views = [], 0
    with progress(len(dataset.paths), "images classified") as bar:
        for _, features in classify.encode(dataset.paths):
            if isinstance(features, InputError):
                raise features
            rows.append(classify.scores(features))
            views += len(features) - 1
            bar.update(1)
    places = torch.tensor([classify.scorer.labels.index(name) for name in dataset.class_names])
    return Answers(torch.stack(rows), places[torch.tensor(dataset.labels)], views / len(rows))


def calibrate(scores: Tensor, labels: Tensor, wanted: float, made: Mapping[str, str]) -> Calibration:
    """Fit the logit scale by likelihood, and choose the lowest threshold at which enough answers are right.

    Args:
        scores: (N, C) of labelled images.
        labels: (N,) the true classes.
        wanted: precision, above 0 and up to 1.
        made: see `made_with`.

    Raises:
        InputError: too few images, or no threshold reaches that precision.
    """
    if not 0 < wanted <= 1:
        raise InputError(f"the wanted precision is {wanted:g}, but must be above 0 and up to 1, such as 0.95")
    if len(labels) < 2:
        raise InputError(f"a threshold needs labelled images, but there are {len(labels)}; give 50 or more")
    scale = fit_logit_scale(scores, labels)
    probabilities, best = (scores.double() * scale).softmax(-1).max(-1)
    order = probabilities.argsort(descending=True, stable=True)
    right = (best == labels)[order].cumsum(0)
    answered = torch.arange(1, len(order) + 1)
    sorted_probabilities = probabilities[order]
    # Images of equal probability are answered together.
    last = torch.cat([sorted_probabilities[1:] < sorted_probabilities[:-1], torch.tensor([True])])
    enough = (last & (right / answered >= wanted)).nonzero().flatten()
    if not len(enough):
        highest = (right / answered)[last].max().item()
        raise InputError(
            f"a precision of {100 * wanted:g} % cannot be reached on these {len(labels)} images (the highest is "
            f"{100 * highest:.1f} %); ask for less, or give examples, descriptions or another encoder"
        )
    number = int(enough[-1]) + 1
    hits = int(right[number - 1])
    return Calibration(
        scale,
        sorted_probabilities[number - 1].item(),
        wanted,
        hits / number,
        wilson_interval(hits, number),
        number / len(labels),
        len(labels),
        dict(made),
    )
