"""From encoded views to the rank of the true class: shard by shard, so that memory does not grow with the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossalign.datasets.configs import Config
from crossalign.errors import InputError
from crossalign.evaluation.statistics import FACTORS
from crossalign.features.pipeline import ordered_map
from crossalign.methods.alignment import Form
from crossalign.methods.method import Method, ScoreConfig, TextFeatures
from crossalign.methods.scoring import class_scores

PICTURES_AT_ONCE = 64
"""Scored together: few enough for (pictures, runs, classes) scores to stay in a CPU's cache."""


@dataclass(frozen=True)
class Scored:
    """What is kept of a method's scores: N pictures, R runs.

    Attributes:
        ranks: (N, R) as `true_ranks` gives them.
        sketch: (N, 1 + F) as `calibration_sketch` gives it for the first run, or None.
    """

    ranks: Tensor
    sketch: Tensor | None


@dataclass(frozen=True)
class Scorer:
    """Scores pictures with methods.

    Attributes:
        methods: each with its texts.
        image_scale, form, draws, logit_scale: see `matching.class_scores`.
        calibration: keep what it needs, too.
    """

    methods: Sequence[tuple[Method, TextFeatures]]
    image_scale: float
    form: Form
    draws: Tensor
    logit_scale: float
    calibration: bool = False

    def __call__(self, whole: Tensor, views: Tensor, labels: Tensor) -> list[Scored]:
        """Score (n, D) whole images, (n, M, D) views and (n,) true classes, a few at a time: one a method.

        Raises:
            InputError: a score is not finite.
        """
        parts = zip(*(tensor.split(PICTURES_AT_ONCE) for tensor in (whole, views, labels)), strict=True)
        return _joined([self._few(whole.float(), views.float(), own) for whole, views, own in parts])

    def _few(self, whole: Tensor, views: Tensor, labels: Tensor) -> list[Scored]:
        found = []
        for method, bank in self.methods:
            scores = class_scores(
                method,
                bank,
                whole,
                views,
                ScoreConfig(self.image_scale, form=self.form, logit_scale=self.logit_scale),
                self.draws,
            )
            scores = scores if scores.dim() == 3 else scores[:, None]
            sketch = calibration_sketch(scores[:, 0] * self.logit_scale, labels) if self.calibration else None
            found.append(Scored(true_ranks(scores, labels), sketch))
        return found


def score_shards(
    shards: Iterable[tuple[slice, Tensor, Tensor]],
    scorer: Scorer,
    labels: Tensor,
    *,
    num_workers: int = 2,
    update: Callable[[int], object] = lambda n: None,
) -> list[Scored]:
    """Score all pictures with all methods, shard by shard.

    Args:
        shards: (rows, whole (n, D), views (n, M, D)) as `features.ImageFeatures` yields them.
        scorer: what scores them.
        labels: (N,) true classes.
        num_workers: threads that score a shard each; 0 does it in the calling thread.
        update: told how many pictures more are done.

    Returns:
        One a method.

    Raises:
        InputError: a score is not finite.
    """

    def score(shard: tuple[slice, Tensor, Tensor]) -> list[Scored]:
        rows, whole, views = shard
        return scorer(whole, views, labels[rows])

    # A thread a shard, each with one of torch's: two that share a matrix would wait for each other on a busy machine.
    return collect(ordered_map(score, shards, num_workers, ahead=num_workers + 1), update)


def collect(found: Iterable[list[Scored]], update: Callable[[int], object] = lambda n: None) -> list[Scored]:
    """Join what was found shard by shard, in order, to one a method."""
    parts = []
    for of_shard in found:
        parts.append(of_shard)
        update(len(of_shard[0].ranks))
    return _joined(parts)


def view_draws(config: Config, seed: int) -> Tensor:
    """Draw each run's views with replacement, as the reference does: (R, M) how often each view was drawn."""
    draws = torch.empty(config.runs, config.views)
    for run in range(config.runs):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, run, 0xD4A35))))
        drawn = generator.integers(config.views, size=config.sampled_views)
        draws[run] = torch.from_numpy(np.bincount(drawn, minlength=config.views))
    return draws


def true_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the classes ahead of the true one: (N, R, C) and (N,) to (N, R); of equal scores the earlier class leads.

    Raises:
        InputError: a score is not finite.
    """
    # One that is not finite makes the sum so; of finite ones only overflow can.
    if not torch.isfinite(scores.sum()) and not torch.isfinite(scores).all():
        raise InputError("some scores are not finite; the encoder's weights are damaged or overflow in this precision")
    own = labels[:, None, None].expand(-1, scores.shape[1], 1)
    truth = scores.gather(2, own)
    # Ones and zeros as float32: torch compares and adds them in wide registers, and counts up to 2^24 are exact.
    ones = torch.empty(scores.shape)
    ranks = torch.gt(scores, truth, out=ones).sum(2)
    if (torch.eq(scores, truth, out=ones).sum(2) > 1).any():
        ranks += ones.mul_(torch.arange(scores.shape[2]) < own).sum(2)
    return ranks.long()


def calibration_sketch(logits: Tensor, labels: Tensor) -> Tensor:
    """Keep what `statistics.calibrate` needs: (N, C) logits and (N,) true classes to (N, 1 + F), gap, then log-sums."""
    below = logits - logits.amax(1, keepdim=True)
    sums = [(below * float(factor)).exp_().sum(1).log() for factor in FACTORS]
    return torch.stack([-below.gather(1, labels[:, None])[:, 0], *sums], dim=1)


def _joined(parts: Sequence[list[Scored]]) -> list[Scored]:
    """Join the pictures of parts, each with one a method."""
    joined = []
    for of_method in zip(*parts, strict=True):
        sketches = [part.sketch for part in of_method if part.sketch is not None]
        joined.append(Scored(torch.cat([part.ranks for part in of_method]), torch.cat(sketches) if sketches else None))
    return joined
