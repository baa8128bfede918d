"""Whether a measured accuracy agrees with a published one, and within which noise.

Both are taken on the same test set with the same weights, so which pictures are in the set makes no difference between
them, and Wilson's interval, which is about that, is the wrong yardstick. What can still part them, in points:

- rounding: the published figure has two decimals, 0.01 / sqrt(12).
- arithmetic: other precision, JPEG decoders and resizing turn the answers for a few pictures, this way and that. The stated
  tolerance is one picture in 500: of n pictures n / 500 turn, so the count of right ones moves by about sqrt(n / 500).
- crops: WCA looks at random crops, and the published run's were others than ours. Re-drawing cached crops with replacement
  is the bootstrap (Efron, Ann. Statist. 1979), so the standard deviation s over our R re-draws stands for what fresh crops
  do to one re-draw; the mean over R adds s^2 / R. The paper's own noise isn't among the figures kept here; method and
  number of crops are the same, so it is taken to be as large as ours: s * sqrt(2 * (1 + 1 / R)). That is rather too much,
  since a mean over re-draws is steadier than one re-draw (1.2 to 2 times too much where it was simulated): "above" and
  "below" can be relied on more than "within".
- pictures: only where n isn't the official N, as with --limit. Then the sets differ, and a subset's accuracy scatters
  around the whole set's by sqrt(p * (1 - p) * |1 / n - 1 / N|), p the published share.

Sigma is the root of the sum of their squares. A method that draws at random without telling its spread (Waffle's words;
WCA with one run) has no sigma, and so no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WITHIN, ABOVE, BELOW = "within 2 sigma", "above", "below"
NOISE_UNKNOWN, NOT_PUBLISHED = "noise unknown", "not published"
TURNED = 1 / 500
"""Share of the pictures whose answer other arithmetic may turn: a stated tolerance, not a measurement."""
DETERMINISTIC = frozenset({"clip", "clip-e", "clip-d", "cupl"})
"""Methods that draw nothing at random."""


def sigma(row: Mapping[str, Any], published: float, pictures: int) -> float | None:
    """Give the standard deviation of measured minus published, in points, if both are of one program; see the module.

    Args:
        row: a method's row of a results file.
        published: top-1 in percent.
        pictures: N of the official test split.

    Returns:
        None for a method that draws at random and whose row does not tell how much that matters.
    """
    spread, runs = row.get("std"), len(row.get("runs", ()))
    if spread is None and row["method"] not in DETERMINISTIC:
        return None
    n, share = row["n"], published / 100
    rounding = 0.01**2 / 12
    arithmetic = 100**2 * TURNED / n
    crops = 0.0 if spread is None else 2 * spread**2 * (1 + 1 / runs)
    subset = 100**2 * share * (1 - share) * abs(1 / n - 1 / pictures)
    return math.sqrt(rounding + arithmetic + crops + subset)


def verdict(measured: float, published: float | None, one_sigma: float | None) -> str:
    """Compare in words: "within 2 sigma", "above", "below", "noise unknown" or "not published"."""
    if published is None:
        return NOT_PUBLISHED
    if one_sigma is None:
        return NOISE_UNKNOWN
    if abs(measured - published) <= 2 * one_sigma:
        return WITHIN
    return ABOVE if measured > published else BELOW
