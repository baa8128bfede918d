"""Whether a measured accuracy agrees with a published one, within noise.

Both are measured on the same test images with the same weights, so the choice of images is no source of a difference, and
Wilson's interval, which estimates exactly that, does not apply. These sources of a difference remain, in points:

- Rounding. The published accuracy has two decimals: 0.01 / sqrt(12).
- Arithmetic. Another precision, JPEG decoder or resize changes the answers for a few images, in both directions. We assume
  one image in 500: of n images, n / 500 change, and the number of right answers changes by about sqrt(n / 500).
- Crops. WCA uses random crops, and those of the published run are not known. Resampling cached crops with replacement is
  a bootstrap (Efron, Ann. Statist. 1979), so the standard deviation s over our R resampled runs estimates the effect of
  new crops on one run; the mean over R runs adds s^2 / R. The tables here do not include the paper's own s; method and
  number of crops are equal, so we assume that it equals ours: s * sqrt(2 * (1 + 1 / R)). This is an overestimate, by a
  factor of 1.2 to 2 in simulations, because a mean over runs varies less than one run. "above" and "below" are therefore
  more reliable than "within".
- Images. Only if n is not the official number N, as with --limit: the accuracy on a subset varies around that on all
  images by sqrt(p * (1 - p) * |1 / n - 1 / N|), where p is the published accuracy as a share.

Sigma is the square root of the sum of their squares. A random method of unknown spread (Waffle's words; WCA with one run)
has no sigma, and therefore no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WITHIN, ABOVE, BELOW = "within 2 sigma", "above", "below"
NOISE_UNKNOWN, NOT_PUBLISHED = "noise unknown", "not published"
CHANGED_SHARE = 1 / 500
"""Share of the images whose answer may change with the arithmetic: an assumption, not a measurement."""
DETERMINISTIC = frozenset({"clip", "clip-e", "clip-d", "cupl"})
"""Methods without random numbers."""


def sigma(row: Mapping[str, Any], published: float, images: int) -> float | None:
    """Standard deviation of (measured - published) in points, if both programs are equivalent; see the module.

    Args:
        row: a method's row of a results file.
        published: published top-1 accuracy in percent.
        images: N, the number of images of the official test split.

    Returns:
        The standard deviation; None for a random method if its row has no standard deviation over runs.
    """
    spread, runs = row.get("std"), len(row.get("runs", ()))
    if spread is None and row["method"] not in DETERMINISTIC:
        return None
    n, share = row["n"], published / 100
    rounding = 0.01**2 / 12
    arithmetic = 100**2 * CHANGED_SHARE / n
    crops = 0.0 if spread is None else 2 * spread**2 * (1 + 1 / runs)
    subset = 100**2 * share * (1 - share) * abs(1 / n - 1 / images)
    return math.sqrt(rounding + arithmetic + crops + subset)


def verdict(measured: float, published: float | None, one_sigma: float | None) -> str:
    """Compare two accuracies: "within 2 sigma", "above", "below", "noise unknown" or "not published"."""
    if published is None:
        return NOT_PUBLISHED
    if one_sigma is None:
        return NOISE_UNKNOWN
    if abs(measured - published) <= 2 * one_sigma:
        return WITHIN
    return ABOVE if measured > published else BELOW
