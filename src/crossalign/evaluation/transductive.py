"""From encoded views to accuracies of a set whose pictures are judged together; scoring.py judges each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.evaluation.ranks import true_ranks
from crossalign.features.pipeline import ImageFeatures, Progress, ordered_map, silent
from crossalign.methods.alignment import Form
from crossalign.methods.registry import Method, TextBank
from crossalign.methods.scoring import class_scores
from crossalign.methods.transclip import ROUNDS, nearest, transclip


@dataclass(frozen=True)
class Transduced:
    """TransCLIP on a method's scores.

    Attributes:
        method, base: such as "transclip(wca)", and "wca", whose scores it took.
        top1, base_top1: its accuracy, and that of the scores it took, in percent.
        n: pictures.
    """

    method: str
    base: str
    top1: float
    base_top1: float
    n: int


def score_together(
    features: ImageFeatures,
    methods: Sequence[tuple[Method, TextBank]],
    labels: Tensor,
    *,
    image_scale: float,
    form: Form,
    logit_scale: float,
    num_workers: int = 2,
    progress: Progress = silent,
) -> list[Transduced]:
    """Judge all pictures together, by TransCLIP on the scores of each method; each view counts once, so none is drawn.

    Memory grows with pictures times classes: a few such tensors are alive at once, those of one method.

    Args:
        features: N pictures.
        methods: each with its texts.
        labels: (N,) true classes.
        image_scale, form, logit_scale: see `matching.class_scores`.
        num_workers: threads that score a shard each; 0 does it in the calling thread.
        progress: shown while pictures are compared, and while they are judged.

    Returns:
        One a method.

    Raises:
        InputError: a score is not finite.
    """

    def scores(method: Method, bank: TextBank) -> Tensor:
        def score(shard: tuple[slice, Tensor, Tensor]) -> Tensor:
            whole, views = shard[1].float(), shard[2].float()
            return class_scores(method, bank, whole, views, image_scale=image_scale, form=form, logit_scale=logit_scale)

        return torch.cat(list(ordered_map(score, features, num_workers, ahead=num_workers + 1)))

    def top1(scores: Tensor) -> float:
        return 100 * float((true_ranks(scores[:, None], labels) == 0).double().mean())

    whole = F.normalize(torch.cat([whole for _, whole, _ in features]).float(), dim=1)
    with progress(len(whole), "pictures compared") as bar:
        neighbours = nearest(whole, bar.update)
    rows = []
    with progress(ROUNDS * len(methods), "rounds of transduction") as bar:
        for method, bank in methods:
            base = scores(method, bank)
            base_top1 = top1(base)
            together = transclip(whole, logit_scale * base, neighbours, bar.update)
            rows.append(Transduced(f"transclip({method.name})", method.name, top1(together), base_top1, len(whole)))
    return rows
