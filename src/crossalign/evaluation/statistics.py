"""Confidence intervals, tests between methods, and calibration."""

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
COUNTS_PER_BATCH = 1 << 22
"""Counts that a bootstrap samples at a time; it bounds the memory."""


def wilson_interval(correct: float, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, JASA 1927), 95 % by default.

    Args:
        correct: number of correct answers; a fraction if it is a mean over runs.
        total: number of answers.
        z: quantile of the normal distribution for the coverage.

    Returns:
        (low, high) in [0, 1].
    """
    share, square = correct / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def two_level_interval(values: Array, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval (Efron's percentiles) over images and over crop seeds.

    Each resample takes N images and, independently, S seeds, both with replacement, and averages the values of these
    images under these seeds. The interval therefore covers both sources of variance: other images and other crops.

    Args:
        values: (N, S), one row per image and one column per seed; or (N,) for one seed, the usual bootstrap.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        (mean, low, high). The order of the images does not matter.

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("a bootstrap needs at least one value")
    values = values.reshape(len(values), -1)
    mean = float(values.mean())
    if mean < 0:
        # Swapping the two methods of a comparison must give exactly the negative interval.
        _, low, high = two_level_interval(-values, resamples, seed)
        return mean, -high, -low
    # Few rows are distinct, and how often a resample takes each distinct row is multinomial. For 50,000 images and 10,000
    # resamples this takes about 0.1 s per seed; drawing the indices of all images takes about 30 s.
    rows, counts = np.unique(values.round(12), axis=0, return_counts=True)
    seeds = values.shape[1]
    generator = np.random.Generator(np.random.PCG64(seed))
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    seed_counts, repeats = np.unique(seed_counts, axis=0, return_counts=True)
    means = [
        _resampled_means(rows @ weights / seeds, counts, repeat, generator)
        for weights, repeat in zip(seed_counts, repeats, strict=True)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return mean, float(low), float(high)


def paired_interval(first: Array, second: Array, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of two methods on the same images, with its 95 % bootstrap interval.

    Args:
        first, second: (N,), the share of runs in which each method was right on each image; or (N, S), with one column
            per crop seed. A method that uses no local views may give (N, 1).
        resamples, seed: as for `two_level_interval`.

    Returns:
        (difference, low, high) of second minus first.

    Raises:
        ValueError: the numbers of images differ or are zero.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"paired methods need the same images, but their numbers are {len(first)} and {len(second)}")
    first, second = (np.asarray(array, dtype=float).reshape(len(array), -1) for array in (first, second))
    return two_level_interval(second - first, resamples, seed)


def mcnemar(first: Array, second: Array) -> float:
    """Two-sided exact McNemar test (McNemar, Psychometrika 1947): do two methods have the same accuracy?

    It counts the images that exactly one method classifies correctly. If both methods are equally good, the number of these
    that the first one classifies correctly is binomial with probability 1/2.

    Args:
        first, second: (N,) bool, whether each method is right on each image.

    Returns:
        The p value; 1 if both methods are right on the same images.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests (Holm, Scandinavian Journal of Statistics 1979); keeps their order.

    If the tests with a corrected p below alpha are rejected, the probability of one or more false rejections is below alpha.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors), 1)
    return [float(p) for p in corrected]


@dataclass(frozen=True)
class Comparison:
    """Two methods compared on the same images.

    Attributes:
        first, second: names of the methods.
        difference, low, high: accuracy of second minus first in percentage points, with its 95 % bootstrap interval.
        p: p value of the exact McNemar test.
        p_holm: p after Holm's correction over all comparisons of the table.
        significant: whether p_holm is below 0.05 and the interval does not include zero.
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
    """Compare pairs of methods, with Holm's correction over these pairs.

    The difference and its interval are those of the mean over runs. McNemar's test needs one answer per image: a method with
    several runs counts as right on an image if more than half of all its runs are.

    Args:
        right: for each method (N, S, R) bool, whether it is right on each image, for each crop seed and run. S and R of two
            methods may differ if one of them is 1.
        pairs: names (first, second).
    """
    means = {name: np.asarray(hits).mean(axis=2) for name, hits in right.items()}
    majority = {name: np.asarray(hits).mean(axis=(1, 2)) > 0.5 for name, hits in right.items()}
    raw = [mcnemar(majority[first], majority[second]) for first, second in pairs]
    comparisons = []
    for (first, second), p, p_holm in zip(pairs, raw, holm(raw), strict=True):
        difference, low, high = (100 * value for value in paired_interval(means[first], means[second]))
        comparisons.append(Comparison(first, second, difference, low, high, p, p_holm, p_holm < ALPHA and low * high > 0))
    return comparisons


def paper_pairs(top1: Mapping[str, float], reference: str = "clip") -> list[tuple[str, str]]:
    """Pairs that a table of methods compares: each method with the reference, and the best with the second best.

    Args:
        top1: accuracy of each method.
        reference: the method that the others are compared with, if it is among them.

    Returns:
        Pairs (first, second); in the last one, second is the best method.
    """
    pairs = [(reference, name) for name in top1 if name != reference] if reference in top1 else []
    best, *others = sorted(top1, key=lambda name: -top1[name])
    if others and reference not in (best, others[0]):
        pairs.append((others[0], best))
    return pairs


def split_sigma(accuracies: Array) -> tuple[float | None, float | None]:
    """Standard deviation over resampled runs, and standard deviation over crop seeds.

    Args:
        accuracies: (S, R), one row per crop seed and one column per resampled run.

    Returns:
        (over runs, over seeds). The first is the standard deviation over the R runs of a seed (root mean square over
        seeds); the released program reports it for one seed. The second is the standard deviation over seeds of the mean
        of a seed's runs. None if there is only one run, or only one seed.
    """
    seeds, runs = accuracies.shape
    over_runs = math.sqrt(accuracies.var(axis=1, ddof=1).mean()) if runs > 1 else None
    over_seeds = float(accuracies.mean(axis=1).std(ddof=1)) if seeds > 1 else None
    return over_runs, over_seeds


def per_class_accuracy(right: Array, labels: Array) -> float:
    """Mean of the accuracies per class; classes without images are left out.

    Args:
        right: (N,) in [0, 1], the share of runs that are right on each image.
        labels: (N,) true classes.
    """
    _, classes = np.unique(labels, return_inverse=True)
    return float((np.bincount(classes, np.asarray(right, dtype=float)) / np.bincount(classes)).mean())


def expected_calibration_error(confidence: Array, right: Array, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy over bins of equal width (Guo et al., ICML 2017, equation 3).

    Args:
        confidence: (N,) probability of the predicted class, in [0, 1].
        right: (N,) bool, whether the prediction is right.
        bins: number of bins; a bin includes its upper end, not its lower one.
    """
    bin_of_image = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of_image, np.asarray(confidence, dtype=float) - np.asarray(right, dtype=float), bins)
    return float(np.abs(gaps).sum() / len(bin_of_image))


@dataclass(frozen=True)
class Calibration:
    """Calibration of a method's probabilities, and the temperature that improves it.

    Attributes:
        ece: expected calibration error of softmax(logit_scale * score) on all images.
        temperature: the T of softmax(logit_scale * score / T) that minimises the negative log-likelihood on the images with
            even index.
        ece_before, ece_after: expected calibration error on the images with odd index, without and with this T.
    """

    ece: float
    temperature: float
    ece_before: float
    ece_after: float


FACTORS = 2.0 ** np.arange(-6, 6.25, 0.5)
"""Factors f = 1/T of the logits at which the log-sum of each image is stored: T from 1/64 to 64."""


def calibrate(log_sums: Array, gaps: Array, right: Array) -> Calibration:
    """Fit a temperature (Guo et al., ICML 2017, section 4.2) on the images with even index; measure on the others.

    Let z_c be the logits minus their maximum. The negative log-likelihood of an image at factor f is
    log sum_c exp(f z_c) - f z_y. The log-sum is a smooth function of log f, so a cubic spline through its values at F
    factors replaces all C logits: 25 numbers per image instead of 1000 for ImageNet.

    Args:
        log_sums: (N, F), log sum_c exp(f z_c) at each of `FACTORS`.
        gaps: (N,), -z_y: the maximum logit minus the logit of the true class.
        right: (N,) bool, whether the prediction is right.

    Raises:
        ValueError: there are fewer than two images.
    """
    if len(gaps) < 2:
        raise ValueError(f"a held-out half needs two or more images, but there are {len(gaps)}")
    grid = np.log2(FACTORS)
    mean_log_sum, mean_gap = CubicSpline(grid, log_sums[::2].mean(axis=0)), float(gaps[::2].mean())
    best = minimize_scalar(lambda u: mean_log_sum(u) + 2**u * mean_gap, bounds=(grid[0], grid[-1]), method="bounded")
    # The maximum logit is 0 after subtraction, so that the probability of the prediction is exp(-log-sum).
    confidence = np.exp(-CubicSpline(grid, log_sums, axis=1)([0.0, best.x])).clip(0, 1)
    return Calibration(
        ece=expected_calibration_error(confidence[:, 0], right),
        temperature=float(2**-best.x),
        ece_before=expected_calibration_error(confidence[1::2, 0], right[1::2]),
        ece_after=expected_calibration_error(confidence[1::2, 1], right[1::2]),
    )


def _resampled_means(values: Array, counts: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Bootstrap means of N values: (K,) distinct values and (K,) how many images have each, to (resamples,) means."""
    distinct, index = np.unique(values.round(12), return_inverse=True)
    total, counts = int(counts.sum()), np.bincount(index, counts)
    batch = max(1, COUNTS_PER_BATCH // len(distinct))
    means = [
        generator.multinomial(total, counts / total, size=min(batch, resamples - start)) @ distinct
        for start in range(0, resamples, batch)
    ]
    return np.concatenate(means) / total
