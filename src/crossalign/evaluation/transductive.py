"""From encoded images to the accuracy of methods that classify all images of a set together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.evaluation.ranks import true_ranks
from crossalign.features.pipeline import ImageFeatures, Progress, silent
from crossalign.methods import alignment
from crossalign.methods.method import Method, ScoreConfig, TextFeatures
from crossalign.methods.scoring import class_scores


@dataclass(frozen=True)
class Transduced:
    """The accuracy of a transductive method.

    Attributes:
        method: its name.
        top1: accuracy, in percent.
        inductive_top1: accuracy of the cosine of each global view with the class embeddings of the same texts, in percent.
        n: number of images.
    """

    method: str
    top1: float
    inductive_top1: float
    n: int


def score_together(
    features: ImageFeatures,
    methods: Sequence[tuple[Method, TextFeatures]],
    labels: Tensor,
    config: ScoreConfig,
    *,
    progress: Progress = silent,
) -> list[Transduced]:
    """Classify all images of a set together, by their global views.

    Memory grows with images times classes: a few such tensors are alive at once, those of one method.

    Args:
        features: of N images.
        methods: transductive ones, each with its texts.
        labels: (N,) true classes.
        config: its logit scale counts.
        progress: shown while methods run, one step per method.

    Returns:
        One per method.

    Raises:
        InputError: a score is not finite, or the texts do not fit the method.
    """
    x0 = F.normalize(torch.cat([x0.float() for _, x0, _ in features]), dim=1)

    def top1(scores: Tensor) -> float:
        return 100 * float((true_ranks(scores[:, None], labels) == 0).double().mean())

    results = []
    with progress(len(methods), "transductive methods") as bar:
        for method, texts in methods:
            scores = class_scores(method, texts, x0, x0.new_empty(len(x0), 0, x0.shape[1]), config)
            inductive = alignment.scores(x0, texts.pooled)
            results.append(Transduced(method.name, top1(scores), top1(inductive), len(x0)))
            bar.update(1)
    return results
