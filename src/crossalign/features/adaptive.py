"""Adaptive number of views: encode views in rounds and stop when the answer is settled, by a sequential test.

The test asks whether the class that leads after n of M views would still lead after all M. For another class r, view m
supports the leader by d_m = S[m, leader] - S[m, r]. With WCA's weights w_m over the n views, normalised to sum to one,

    D = sum_m w_m d_m,    e = 1 / sum_m w_m^2,    s^2 = sum_m w_m^2 (d_m - D)^2 * e / (e - 1) * (1 - n / M),

where e is the effective number of views (Kish, "Survey Sampling", 1965), e / (e - 1) corrects for the estimated mean, and
1 - n / M corrects for a finite population: there are only M views. The leader is settled if D / s exceeds, for every other
class, Student's quantile at 1 - (1 - confidence) / looks with e - 1 degrees of freedom. The division by the number of looks
(Bonferroni) corrects for the repeated tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from scipy.special import stdtrit
from torch import Tensor

from crossalign.errors import InputError

FIRST_VIEWS, GROWTH = 6, 4 / 3
"""Views of the first round, and the factor by which each further round increases the number of views; measured in
benchmarks/adaptive.py."""


@dataclass(frozen=True)
class Rounds:
    """When to stop encoding views.

    Attributes:
        max_views: M, the largest number of views.
        confidence: required confidence that all M views would give the same answer.
    """

    max_views: int = 60
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if self.max_views < 1:
            raise InputError(f"max_views is {self.max_views}, but must be at least 1")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence is {self.confidence:g}, but must be at least 0.5 and below 1, such as 0.99")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of views after each round; the last is M."""
        series = (round(FIRST_VIEWS * GROWTH**step) for step in count())
        return (*takewhile(lambda views: views < self.max_views, series), self.max_views)


def settled(similarity: Tensor, weights: Tensor, rounds: Rounds) -> Tensor:
    """Test whether the leading class would still lead after all views.

    Args:
        similarity: (N, n, C) similarity between each view so far and each class embedding.
        weights: (N, n) view weights that sum to one.
        rounds: M, confidence and the number of rounds.

    Returns:
        (N,) bool; true for all when n is M.
    """
    n, max_views = similarity.shape[1], rounds.max_views
    if n >= max_views:
        return torch.ones(len(similarity), dtype=torch.bool)
    similarity, weights = similarity.double(), weights.double()
    scores = torch.einsum("nm,nmc->nc", weights, similarity)
    leader = scores.argmax(1)
    lead = similarity.gather(2, leader[:, None, None].expand(-1, n, 1)) - similarity
    mean = torch.einsum("nm,nmc->nc", weights, lead)
    squares = weights.square()
    effective = 1 / squares.sum(1)
    spread = torch.einsum("nm,nmc->nc", squares, (lead - mean[:, None]).square())
    # A single effective view has no variance.
    freedom = (effective - 1).clamp(min=1e-6)
    error = (spread * (effective / freedom)[:, None] * (1 - n / max_views)).sqrt()
    level = 1 - (1 - rounds.confidence) / len(rounds.counts[:-1])
    quantile = torch.from_numpy(stdtrit(freedom.numpy(), level)).nan_to_num(nan=torch.inf)
    ahead = (mean > quantile[:, None] * error).scatter(1, leader[:, None], True)
    return ahead.all(1) & (freedom > 1e-6)


def encode_until_settled(
    encode: Callable[[int, int], Tensor], rounds: Rounds, enough: Callable[[Tensor], bool], known: Tensor | None = None
) -> Tensor:
    """Encode the views of an image round by round.

    Args:
        encode: encodes the local views from `start` up to `end`, with the global view before them if `start` is 0.
        rounds: number of views per round.
        enough: (1 + n, D) features to whether to stop.
        known: (1 + m, D) features of an earlier run, m after one of the rounds; they are not encoded again.

    Returns:
        (1 + n, D) features, the global view first.
    """
    features, start = None, 0
    for end in rounds.counts:
        first = 1 + start if start else 0
        more = known[first : 1 + end] if known is not None and len(known) > end else encode(start, end)
        features, start = more if features is None else torch.cat([features, more]), end
        if enough(features):
            break
    assert features is not None  # There is at least one round.
    return features
