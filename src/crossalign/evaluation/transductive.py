"""Accuracies of methods that judge all images of a set together; `ranks` is about those that judge each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.evaluation.protocols import Row, Saw
from crossalign.evaluation.ranks import true_ranks
from crossalign.features.pipeline import ImageFeatures, Progress, silent
from crossalign.methods import alignment
from crossalign.methods.method import ScoreConfig, TextFeatures
from crossalign.methods.scoring import class_scores


@dataclass(frozen=True)
class Transduced:
    """What a transductive method reached.

    Attributes:
        method: its name.
        top1: accuracy in percent.
        inductive_top1: accuracy of the cosine of each global view with the class embeddings of the same texts, in percent.
        n: images.
        saw: its views and texts.
    """

    method: str
    top1: float
    inductive_top1: float
    n: int
    saw: Saw


def score_together(
    features: ImageFeatures,
    rows: Sequence[tuple[Row, TextFeatures]],
    labels: Tensor,
    config: ScoreConfig,
    *,
    progress: Progress = silent,
) -> list[Transduced]:
    """Score the global views of all images together.

    Memory grows with images times classes: a few such tensors are alive at once, those of one method.

    Args:
        features: N images.
        rows: transductive methods, each with its texts.
        labels: (N,) true classes.
        config: scales and logit scale.
        progress: shown method by method.

    Returns:
        One per method.

    Raises:
        InputError: a score is not finite.
    """
    x0 = F.normalize(torch.cat([global_views for _, global_views, _ in features]).float(), dim=1)

    def top1(scores: Tensor) -> float:
        return 100 * float((true_ranks(scores[:, None], labels) == 0).double().mean())

    results = []
    with progress(len(rows), "transductive methods") as bar:
        for row, texts in rows:
            scores = class_scores(row.method, texts, x0, x0.new_empty(len(x0), 0, x0.shape[1]), config)
            inductive = alignment.scores(x0, texts.pooled)
            results.append(Transduced(row.method.name, top1(scores), top1(inductive), len(x0), row.saw(texts)))
            bar.update(1)
    return results
