"""How sure an accuracy is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


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


def paired_interval(first: Array, second: Array, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of two methods on the same pictures, with its 95 % bootstrap interval (percentiles, over pictures).

    Args:
        first, second: (N,) how often each method was right on each picture, in [0, 1].
        resamples: how many samples of N pictures are drawn, with replacement.
        seed: of those draws.

    Returns:
        (difference, low, high) of second minus first.

    Raises:
        ValueError: the lengths differ or are zero.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"paired methods need the same pictures, but there are {len(first)} and {len(second)}")
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    generator = np.random.Generator(np.random.PCG64(seed))
    means = [difference[generator.integers(len(difference), size=len(difference))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
