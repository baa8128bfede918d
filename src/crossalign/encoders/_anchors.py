"""Labels that an encoder cannot know because it sees images through a fixed list of names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

MOST_SHOWN = 5
"""Labels that the warning names."""


def warn_of_unknown(labels: Sequence[str], encoder: Any, encode: Callable[[Sequence[str]], Tensor]) -> None:
    """Warn of labels whose names are far from all names that the encoder sees images through.

    Args:
        labels: C class names.
        encoder: one with `nearest_anchor` and `least_anchor`; others know no fixed list, and nothing is checked.
        encode: its texts (K) to features (K, D).
    """
    if getattr(encoder, "nearest_anchor", None) is None:
        return
    cosines = encoder.nearest_anchor(encode(labels)).tolist()
    unknown = [label for label, cosine in zip(labels, cosines, strict=True) if cosine < encoder.least_anchor]
    if unknown:
        # Labels may come from strangers, and a terminal obeys what is not escaped.
        shown = ", ".join(map(repr, unknown[:MOST_SHOWN])) + (", ..." if len(unknown) > MOST_SHOWN else "")
        warnings.warn(
            f"encoder {encoder.name} probably cannot recognise {len(unknown)} of {len(labels)} labels ({shown}), since none "
            "of the 1000 ImageNet names that it knows is near; use another encoder (encoder='clip', --encoder clip) or give "
            "example images (examples, --examples DIR)",
            stacklevel=3,
        )
