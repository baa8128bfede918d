"""Describe an encoder for results files and for `crossalign encoders`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

OPTIONAL = ("logit_bias", "activation", "context", "weights")
"""Attributes that an encoder of another package may lack."""


def describe(encoder: Any) -> dict[str, Any]:
    """Give all that decides an encoder's features and probabilities, as JSON's types.

    Args:
        encoder: any `Encoder`.

    Returns:
        name, width, logit_scale, logit_bias, activation, preprocessing, context (tokens), weights (where they come from),
        fingerprint, device and runtime; None for what an encoder of another package does not say.
    """
    runtime = getattr(encoder, "runtime", None)
    return {
        "name": encoder.name,
        "width": encoder.width,
        "logit_scale": encoder.logit_scale,
        **{name: getattr(encoder, name, None) for name in OPTIONAL},
        "preprocessing": asdict(encoder.preprocessing),
        "fingerprint": encoder.fingerprint,
        "device": str(encoder.device),
        "runtime": runtime.to_dict() if runtime else None,
    }
