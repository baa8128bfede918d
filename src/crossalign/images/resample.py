"""Crops resized all at once, as two matrix products: what a GPU does well and a CPU's one-by-one kernel does better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _linear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5 (IEEE Trans. ASSP 1981), which PIL and torch's antialiased resize use."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _linear, "bicubic": _cubic}


def resample(image: Tensor, boxes: np.ndarray[Any, np.dtype[np.int64]], size: int, interpolation: str) -> Tensor:
    """Crop boxes out of an image and resize them to squares, antialiased, on the image's device.

    Args:
        image: (3, H, W) uint8.
        boxes: (M, 4) left, top, right, bottom in pixels.
        size: side of the results in pixels.
        interpolation: one of `KERNELS`.

    Returns:
        (M, 3, size, size) uint8, within one or two levels of torch's own kernel, which rounds its weights too.
    """
    place = torch.from_numpy(boxes).to(image.device)
    sides = (place[:, 2:] - place[:, :2]).float()
    kernel = KERNELS[interpolation]
    across = _weights(place[:, 0], sides[:, 0], size, image.shape[2], kernel)
    down = _weights(place[:, 1], sides[:, 1], size, image.shape[1], kernel)
    # Rounded between the two, as by the kernels that work on bytes.
    rows = torch.einsum("chw,mxw->mchx", image.float(), across).round_().clamp_(0, 255)
    return torch.einsum("mchx,myh->mcyx", rows, down).round_().clamp_(0, 255).to(torch.uint8)


def _weights(starts: Tensor, sides: Tensor, size: int, length: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """Say how much each pixel of a line counts for each of the result's: (M,) and (M,) to (M, size, length)."""
    scale = sides / size
    centres = (torch.arange(size, device=starts.device) + 0.5) * scale[:, None]
    inside = torch.arange(length, device=starts.device) - starts[:, None]
    distance = (inside[:, None] + 0.5 - centres[:, :, None]) / scale.clamp(min=1)[:, None, None]
    weights = kernel(distance) * ((inside >= 0) & (inside < sides[:, None]))[:, None]
    return weights / weights.sum(-1, keepdim=True)
