"""Image and text into one joint space: `load_encoder("backend:spec")`, one module of this package a backend."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from crossalign.encoders._memory import keep_freed_memory
from crossalign.errors import InputError
from crossalign.views import Preprocessing


class Encoder(Protocol):
    """What every backend returns.

    Attributes:
        name: the spec that loads it again, such as "open_clip:ViT-B-32/openai".
        width: D, of the joint space.
        logit_scale: what cosines are multiplied with before a softmax over classes.
        fingerprint: hex digest of the weights and of all that changes a feature.
        preprocessing: how it wants its pixels.
        device: where it computes.
    """

    name: str
    width: int
    logit_scale: float
    fingerprint: str
    preprocessing: Preprocessing
    device: torch.device

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, *size) pixels, uint8 or float in [0, 1], to (B, D) normalised float32 features on the CPU."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode K texts to (K, D) normalised float32 features on the CPU."""
        ...


def load_encoder(spec: str, device: str = "auto") -> Encoder:
    """Load an encoder: "builtin", "builtin:lite0", "open_clip:ViT-B-32/openai", "open_clip:ViT-B-32//path/to/weights.pt".

    Args:
        spec: the backend's name, then after a colon what that backend is to load.
        device: "auto" takes a GPU where there is one; else any name that torch knows, such as "cpu" or "cuda:1".

    Raises:
        InputError: no such backend or model, its weights cannot be reached, or the device is not there.
    """
    backend, _, rest = spec.partition(":")
    if backend not in backends():
        raise InputError(f"encoder {spec!r} names no known backend; known are {', '.join(backends())}")
    module = importlib.import_module(f"{__name__}.{backend}")
    chosen = pick_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    encoder: Encoder = module.load(rest, chosen)
    return encoder


def backends() -> list[str]:
    """List the backends: the modules of this package that are not helpers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def pick_device(device: str) -> torch.device:
    """Turn "auto" or a torch device name into a device that is there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"device {device!r} is not there; use 'cpu', or 'auto' to take what is there") from None
    return torch.device(device)
