"""Tell weights apart by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def digest(modules: Iterable[nn.Module], *settings: object) -> str:
    """Hash weights, buffers and settings to hex: equal digests mean equal features on like hardware."""
    hasher = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for module in modules:
        for name, tensor in module.state_dict().items():
            hasher.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            hasher.update(_raw(tensor))
    return hasher.hexdigest()


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
