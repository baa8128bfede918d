"""Look only as long as the answer is open: views are encoded in rounds, with a sequential test after each.

The test asks whether the class that leads after n of M views would still lead after all M. For a rival r, view m speaks for
the leader by d_m = S[m, leader] - S[m, r]. With WCA's weights w_m over the n views, normalised to one,

    D = sum_m w_m d_m,    e = 1 / sum_m w_m^2,    s^2 = sum_m w_m^2 (d_m - D)^2 * e / (e - 1) * (1 - n / M),

where e is the effective number of views (Kish, "Survey Sampling", 1965), e / (e - 1) the correction for the mean having been
estimated, and 1 - n / M that for a finite population: no more than M views could ever be seen. The leader is settled when
D / s exceeds, for every rival, Student's quantile at 1 - (1 - confidence) / looks with e - 1 degrees of freedom; dividing
by the number of looks (Bonferroni) pays for testing after each round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.images.crops import cut_boxes

FIRST, GROWTH = 6, 4 / 3
"""Views of the first round, and how much more have been seen after each of the next; measured in benchmarks/adaptive.py."""


@dataclass(frozen=True)
class Rounds:
    """When to stop looking.

    Attributes:
        max_views: M, after which there is an answer in any case.
        confidence: that the answer is the one which all M views would give.
    """

    max_views: int = 60
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if self.max_views < 1:
            raise InputError(f"the largest number of views is {self.max_views}, but must be at least 1")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"the confidence is {self.confidence:g}, but must be at least 0.5 and below 1, such as 0.99")

    @property
    def counts(self) -> tuple[int, ...]:
        """How many views have been seen after each round; the last is M."""
        series = (round(FIRST * GROWTH**step) for step in count())
        return (*takewhile(lambda seen: seen < self.max_views, series), self.max_views)


def settled(views: Tensor, weights: Tensor, texts: Tensor, rounds: Rounds) -> Tensor:
    """Test whether more views would leave the leading class in front.

    Args:
        views: (N, n, D) features of the views seen so far.
        weights: (N, n) that sum to one.
        texts: (C, D) `TextFeatures.pooled`, normalised for the form "released".
        rounds: M, confidence and the number of looks.

    Returns:
        (N,) bool; true for all when n is M.
    """
    n, most = views.shape[1], rounds.max_views
    if n >= most:
        return torch.ones(len(views), dtype=torch.bool)
    similarity = views.double() @ texts.double().T
    weights = weights.double()
    scores = torch.einsum("nm,nmc->nc", weights, similarity)
    leader = scores.argmax(1)
    for_leader = similarity.gather(2, leader[:, None, None].expand(-1, n, 1)) - similarity
    mean = torch.einsum("nm,nmc->nc", weights, for_leader)
    squares = weights.square()
    effective = 1 / squares.sum(1)
    spread = torch.einsum("nm,nmc->nc", squares, (for_leader - mean[:, None]).square())
    # Of one effective view alone nothing can be said.
    freedom = (effective - 1).clamp(min=1e-6)
    error = (spread * (effective / freedom)[:, None] * (1 - n / most)).sqrt()
    level = 1 - (1 - rounds.confidence) / len(rounds.counts[:-1])
    quantile = torch.from_numpy(stdtrit(freedom.numpy(), level)).nan_to_num(nan=torch.inf)
    ahead = (mean > quantile[:, None] * error).scatter(1, leader[:, None], True)
    return ahead.all(1) & (freedom > 1e-6)


def encode_until_settled(
    image: Tensor,
    boxes: np.ndarray[Any, np.dtype[np.int64]],
    first: Tensor,
    encoder: Encoder,
    rounds: Rounds,
    enough: Callable[[Tensor], bool],
) -> Tensor:
    """Encode a picture's views round by round.

    Args:
        image: (3, H, W) uint8.
        boxes: (M, 4), in the order in which they are looked at.
        first: (1 + rounds.counts[0], 3, *size) uint8, the whole image and the views of the first round.
        encoder, rounds: whose features, and how many at a time.
        enough: says of (1 + n, D) features whether to stop.

    Returns:
        (1 + n, D) features, the whole image first.
    """
    features = encoder.encode_images(first)
    for seen, following in pairwise(rounds.counts):
        if enough(features):
            break
        views = cut_boxes(image, boxes[seen:following], encoder.preprocessing)
        features = torch.cat([features, encoder.encode_images(views)])
    return features
