"""How sure an accuracy is, how sure a difference is, and how far a probability can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.stats import binom

Array = np.ndarray[Any, np.dtype[Any]]

RESAMPLES = 10_000
ALPHA = 0.05
BINS = 15
DRAWN_AT_ONCE = 1 << 22
"""Counts drawn together by a bootstrap, so that its memory does not grow with the pictures."""


def wilson_interval(correct: float, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 1927), 95 % by default.

    Args:
        correct: how many were right; a mean over runs need not be whole.
        total: of how many.
        z: the normal quantile of the coverage.

    Returns:
        (low, high) in [0, 1].
    """
    share, square = correct / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def two_level_interval(values: Array, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean with its 95 % bootstrap interval (Efron's percentiles) over pictures and over seeds.

    Each resample draws S seeds and, apart from them, N pictures, both with replacement, and takes the mean of the drawn
    rows and columns. So the interval holds for other pictures seen through other crops, not only for these crops.

    Args:
        values: (N, S) one row a picture, one column a seed; or (N,), which is one seed and the usual bootstrap.
        resamples: how often that is done.
        seed: of those draws.

    Returns:
        (mean, low, high). It depends on neither the order of the pictures nor, beyond the draws' noise, of the seeds.

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("a bootstrap needs at least one value")
    values = values.reshape(len(values), -1)
    mean = float(values.mean())
    if mean < 0:
        # Drawn on one side only, an interval turns exactly with its sign.
        _, low, high = two_level_interval(-values, resamples, seed)
        return mean, -high, -low
    # Equal rows stand together: how often each kind of row is drawn is multinomial, and there are few kinds.
    rows, counts = np.unique(values.round(12), axis=0, return_counts=True)
    seeds = values.shape[1]
    generator = np.random.Generator(np.random.PCG64(seed))
    picks = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    picks, repeats = np.unique(picks, axis=0, return_counts=True)
    means = [
        _resampled_means(rows @ pick / seeds, counts, repeat, generator) for pick, repeat in zip(picks, repeats, strict=True)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return mean, float(low), float(high)


def paired_interval(first: Array, second: Array, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of two methods on the same pictures, with its 95 % bootstrap interval.

    Args:
        first, second: (N,) how often each method was right on each picture, in [0, 1]; or (N, S) by seed of the crops,
            where a method that looks at no crops may give (N, 1).
        resamples: how many samples of the N pictures (and S seeds) are drawn, with replacement.
        seed: of those draws.

    Returns:
        (difference, low, high) of second minus first.

    Raises:
        ValueError: the numbers of pictures differ or are zero.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"paired methods need the same pictures, but there are {len(first)} and {len(second)}")
    one, other = (np.asarray(array, dtype=float).reshape(len(array), -1) for array in (first, second))
    return two_level_interval(other - one, resamples, seed)


def mcnemar(first: Array, second: Array) -> float:
    """Two-sided exact McNemar test (McNemar, Psychometrika 1947): are two methods equally often right?

    Of the pictures that only one of the two has right, each has them in half the cases if they are equally good: a binomial.

    Args:
        first, second: (N,) bool, whether each method is right on each picture.

    Returns:
        The p value; 1 if they are right on the same pictures.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm, Scandinavian Journal of Statistics 1979), in the order given.

    Rejecting those below alpha holds the chance of any false rejection among them below alpha.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors), 1)
    return [float(p) for p in corrected]


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same pictures.

    Attributes:
        first, second: the methods.
        difference, low, high: second minus first in percentage points, with its 95 % bootstrap interval.
        p: of the exact McNemar test.
        p_holm: the same after Holm, over all comparisons made together.
        significant: p_holm is below 0.05 and the interval lies on one side of zero.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    significant: bool


def compare(right: Mapping[str, Array], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Compare pairs of methods; Holm's correction is over exactly these pairs.

    The difference and its interval are of the mean over runs. McNemar's test wants one answer a picture: a method with
    several runs has a picture right if more than half of all its runs have.

    Args:
        right: by method (N, S, R) bool, by picture, seed of the crops and run; S and R may differ between methods if one
            of them is 1.
        pairs: (first, second).
    """
    means = {name: np.asarray(hits).mean(axis=2) for name, hits in right.items()}
    majority = {name: np.asarray(hits).mean(axis=(1, 2)) > 0.5 for name, hits in right.items()}
    raw = [mcnemar(majority[first], majority[second]) for first, second in pairs]
    done = []
    for (first, second), p, p_holm in zip(pairs, raw, holm(raw), strict=True):
        difference, low, high = (100 * value for value in paired_interval(means[first], means[second]))
        done.append(Comparison(first, second, difference, low, high, p, p_holm, p_holm < ALPHA and low * high > 0))
    return done


def paper_pairs(top1: Mapping[str, float], reference: str = "clip") -> list[tuple[str, str]]:
    """Choose what a table of methods claims: each method against the reference, and the best against the runner-up.

    The best is not tested against all others: of those it beats, the runner-up is the hardest.

    Args:
        top1: accuracy by method.
        reference: the method that all are measured against, if it is there.

    Returns:
        (first, second) each; the better one of the last pair is its second.
    """
    pairs = [(reference, name) for name in top1 if name != reference] if reference in top1 else []
    best, *others = sorted(top1, key=lambda name: -top1[name])
    if others and reference not in (best, others[0]):
        pairs.append((others[0], best))
    return pairs


def split_sigma(accuracies: Array) -> tuple[float | None, float | None]:
    """Tell the noise of re-drawing the same crops from the noise of cutting new ones.

    Args:
        accuracies: (S, R) by seed of the crops and run.

    Returns:
        (re-draw, fresh-crop): the standard deviation over a seed's R runs (root mean square over seeds), as the released
        program reports it for its one seed; and the standard deviation over seeds of a seed's mean. None where there is
        only one run or one seed.
    """
    seeds, runs = accuracies.shape
    redraw = math.sqrt(accuracies.var(axis=1, ddof=1).mean()) if runs > 1 else None
    fresh = float(accuracies.mean(axis=1).std(ddof=1)) if seeds > 1 else None
    return redraw, fresh


def per_class_accuracy(right: Array, labels: Array) -> float:
    """Mean over classes of each class's accuracy; (N,) in [0, 1] and (N,); classes without pictures are left out."""
    _, owner = np.unique(labels, return_inverse=True)
    return float((np.bincount(owner, np.asarray(right, dtype=float)) / np.bincount(owner)).mean())


def expected_calibration_error(confidence: Array, right: Array, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy, over equal bins of confidence (Guo et al., ICML 2017, equation 3).

    Args:
        confidence: (N,) probability of the answer, in [0, 1].
        right: (N,) bool, whether it is the true one.
        bins: how many; each is open below and closed above.
    """
    inside = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(inside, np.asarray(confidence, dtype=float) - np.asarray(right, dtype=float), bins)
    return float(np.abs(gaps).sum() / len(inside))


@dataclass(frozen=True)
class Calibration:
    """How far a method's probabilities can be believed, and the temperature that mends them.

    Attributes:
        ece: expected calibration error of softmax(logit_scale * score), all pictures.
        temperature: T of softmax(logit_scale * score / T) with the least negative log-likelihood on the even half.
        ece_before, ece_after: on the odd half, without and with that temperature.
    """

    ece: float
    temperature: float
    ece_before: float
    ece_after: float


FACTORS = 2.0 ** np.arange(-6, 6.25, 0.5)
"""Factors f = 1/T of the logits at which each picture's log-sum is kept: T from 1/64 to 64."""


def calibrate(log_sums: Array, gaps: Array, right: Array) -> Calibration:
    """Fit a temperature (Guo et al., ICML 2017, section 4.2) from what was kept of each picture's scores.

    With z_c the logits minus the greatest, a picture's negative log-likelihood at factor f is log sum_c exp(f z_c) - f z_y.
    The log-sum is smooth in log f, so that a cubic spline through a few factors stands for all C scores.

    Args:
        log_sums: (N, F) log sum_c exp(f z_c) at each of `FACTORS`.
        gaps: (N,) -z_y, what the true class is short of the greatest.
        right: (N,) bool.

    The temperature is fitted on the pictures at places 0, 2, 4, ... of the dataset and measured at 1, 3, 5, ...

    Raises:
        ValueError: fewer than two pictures.
    """
    if len(gaps) < 2:
        raise ValueError(f"a held-out half needs two or more pictures, but there are {len(gaps)}")
    grid = np.log2(FACTORS)
    mean, gap = CubicSpline(grid, log_sums[::2].mean(axis=0)), float(gaps[::2].mean())
    found = minimize_scalar(lambda u: mean(u) + 2**u * gap, bounds=(grid[0], grid[-1]), method="bounded")
    # A probability is at least one over the number of classes, and the sums at the least factor know it.
    confidence = np.exp(-CubicSpline(grid, log_sums, axis=1)([0.0, found.x])).clip(0, 1)
    return Calibration(
        ece=expected_calibration_error(confidence[:, 0], right),
        temperature=float(2**-found.x),
        ece_before=expected_calibration_error(confidence[1::2, 0], right[1::2]),
        ece_after=expected_calibration_error(confidence[1::2, 1], right[1::2]),
    )


def _resampled_means(values: Array, counts: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Means of samples of a multiset, drawn with replacement: (K,) values and how often each occurs, to (resamples,)."""
    kinds, owner = np.unique(values.round(12), return_inverse=True)
    total, counts = int(counts.sum()), np.bincount(owner, counts)
    at_once = max(1, DRAWN_AT_ONCE // len(kinds))
    parts = [
        generator.multinomial(total, counts / total, size=min(at_once, resamples - done)) @ kinds
        for done in range(0, resamples, at_once)
    ]
    return np.concatenate(parts) / total
