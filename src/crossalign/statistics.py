"""How sure an accuracy is."""

from __future__ import annotations

import math


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
