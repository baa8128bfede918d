"""Checks of crop scales; without torch, so that configs and the command line load quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossalign.errors import InputError


def check_crop_scale(crop_scale: Sequence[Any], name: str = "crop_scale") -> None:
    """Check that a crop scale is two shares (low, high) of the shorter side with 0 < low <= high <= 1.

    Args:
        crop_scale: what was given.
        name: what the error calls it.

    Raises:
        InputError: it is something else.
    """
    if all(isinstance(share, (int, float)) for share in crop_scale) and len(crop_scale) == 2:
        low, high = crop_scale
        if 0 < low <= high <= 1:
            return
    shown = ", ".join(map(str, crop_scale))
    raise InputError(f"{name} is {shown}, but must be two shares with 0 < low <= high <= 1")
