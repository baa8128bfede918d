"""From encoded views to the rank of the true class: shard by shard, so that memory does not grow with the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from crossalign.errors import InputError
from crossalign.evaluation.protocols import Row
from crossalign.evaluation.statistics import FACTORS
from crossalign.features.pipeline import ordered_map
from crossalign.methods.method import ScoreConfig, TextFeatures
from crossalign.methods.scoring import class_scores

IMAGES_AT_ONCE = 64
"""Scored together: few enough for (images, runs, classes) scores to stay in a CPU's cache."""


@dataclass(frozen=True)
class Scored:
    """Summary of a method's scores: N images, R runs.

    Attributes:
        ranks: (N, R) as `true_ranks` gives them.
        sketch: (N, 1 + F) as `calibration_sketch` gives it for the first run, or None.
    """

    ranks: Tensor
    sketch: Tensor | None


@dataclass(frozen=True)
class Scorer:
    """Scores the images of a dataset with methods.

    Attributes:
        rows: the methods, with what they see, each with its texts.
        config: scales, form and logit scale.
        seed: of the resampled runs.
        labels: (N,) true classes of the dataset's images.
        indices: (N,) positions of the images in the full dataset.
        calibration: also compute what a calibration needs.
    """

    rows: Sequence[tuple[Row, TextFeatures]]
    config: ScoreConfig
    seed: int
    labels: Tensor
    indices: Sequence[int]
    calibration: bool = False

    def __call__(self, shard: slice, x0: Tensor, views: Tensor) -> list[Scored]:
        """Score the global views (n, D) and the local views (n, M, D) of some images: one result per method.

        Raises:
            InputError: a score is not finite.
        """
        parts = []
        for start in range(0, len(x0), IMAGES_AT_ONCE):
            some = slice(start, start + IMAGES_AT_ONCE)
            place = slice(shard.start + start, shard.start + start + len(x0[some]))
            parts.append(self._score(place, x0[some].float(), views[some].float()))
        return _joined(parts)

    def _score(self, place: slice, x0: Tensor, views: Tensor) -> list[Scored]:
        results = []
        labels = self.labels[place]
        for row, texts in self.rows:
            local = views[:, : row.recipe.count]
            run_counts = self._run_counts(row, local, place)
            scores = class_scores(row.method, texts, x0, local, self.config, run_counts)
            scores = scores if scores.dim() == 3 else scores[:, None]
            sketch = calibration_sketch(scores[:, 0] * self.config.logit_scale, labels) if self.calibration else None
            results.append(Scored(true_ranks(scores, labels), sketch))
        return results

    def _run_counts(self, row: Row, views: Tensor, place: slice) -> Tensor | None:
        """Count how often each run takes each view: (R, M), or (n, R, M) where images have different numbers of views."""
        if not row.runs:
            return None
        if not row.recipe.varies:
            return resampled_runs(views.shape[1], row.runs, row.sampled, self.seed)
        # Views that an image lacks are zero vectors.
        present = (views != 0).any(-1).sum(1).tolist()
        each = zip(present, self.indices[place], strict=True)
        return torch.stack(
            [_resampled(count, views.shape[1], row.runs, row.sampled, (self.seed, index, 0xB1F7A)) for count, index in each]
        )


def score_shards(
    shards: Iterable[tuple[slice, Tensor, Tensor]],
    scorer: Scorer,
    *,
    num_workers: int = 2,
    update: Callable[[int], object] = lambda n: None,
) -> list[Scored]:
    """Score all images with all methods, shard by shard.

    Args:
        shards: (rows, x0 (n, D), views (n, M, D)) as `features.pipeline.ImageFeatures` yields them.
        scorer: what scores them.
        num_workers: threads that score a shard each; 0 does it in the calling thread.
        update: told how many images more are done.

    Returns:
        One per method.

    Raises:
        InputError: a score is not finite.
    """
    # One shard per thread, each with one of torch's: two that share a matrix would wait for each other on a busy machine.
    return collect(ordered_map(lambda shard: scorer(*shard), shards, num_workers, ahead=num_workers + 1), update)


def collect(scored: Iterable[list[Scored]], update: Callable[[int], object] = lambda n: None) -> list[Scored]:
    """Join the results of shards, in order, to one per method."""
    parts = []
    for of_shard in scored:
        parts.append(of_shard)
        update(len(of_shard[0].ranks))
    return _joined(parts)


@lru_cache(maxsize=8)
def resampled_runs(views: int, runs: int, sampled: int, seed: int) -> Tensor:
    """Sample the views of each run with replacement, as WCA's program does: (R, M), how often each run takes each view."""
    counts = torch.empty(runs, views)
    for run in range(runs):
        sampled_views = _generator(seed, run, 0xD4A35).integers(views, size=sampled)
        counts[run] = torch.from_numpy(np.bincount(sampled_views, minlength=views))
    return counts


def _resampled(present: int, views: int, runs: int, sampled: int, seed: tuple[int, ...]) -> Tensor:
    """Sample the runs of an image among its first views, as BiFTA's program does: (R, M)."""
    sampled_views = _generator(*seed).integers(present, size=(runs, sampled))
    return torch.from_numpy(np.stack([np.bincount(run, minlength=views) for run in sampled_views])).float()


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def true_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the classes ahead of the true one: (N, R, C) and (N,) to (N, R); of equal scores the earlier class leads.

    Raises:
        InputError: a score is not finite.
    """
    # A score that is not finite makes the sum not finite; so does an overflow, hence the second test.
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
    """Compute what `statistics.calibrate` needs: (N, C) logits and (N,) true classes to (N, 1 + F), gap, then log-sums."""
    below = logits - logits.amax(1, keepdim=True)
    sums = [(below * float(factor)).exp_().sum(1).log() for factor in FACTORS]
    return torch.stack([-below.gather(1, labels[:, None])[:, 0], *sums], dim=1)


def _joined(parts: Sequence[list[Scored]]) -> list[Scored]:
    """Join the images of parts; each part has one result per method."""
    joined = []
    for of_method in zip(*parts, strict=True):
        sketches = [part.sketch for part in of_method if part.sketch is not None]
        joined.append(Scored(torch.cat([part.ranks for part in of_method]), torch.cat(sketches) if sketches else None))
    return joined
