"""Fingerprints of models: weights, activation, and all else that changes a feature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

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


def activations(*modules: nn.Module) -> str:
    """Names of a model's activations, such as "GELU" or "QuickGELU, ReLU"; the weights alone do not show them."""
    layers = {type(layer) for module in modules for layer in module.modules()}
    known = {
        layer.__name__ for layer in layers if layer.__module__ in ("torch.nn.modules.activation", "transformers.activations")
    }
    ours = {layer.__name__ for layer in layers if layer.__name__ == "QuickGELU"}
    return ", ".join(sorted((known | ours) - {"MultiheadAttention"}))


def tokenizer_content(tokenizer: Any) -> str:
    """Return all that decides the tokens of a tokenizer of the transformers library; empty for others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content: str = backend.to_str()
        return content
    return repr(sorted(tokenizer.get_vocab().items())) if hasattr(tokenizer, "get_vocab") else ""


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
