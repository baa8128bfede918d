"""The visual space of an encoder: where images are compared with images."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


class VisualEncoder:
    """An encoder that gives the outputs of its tower instead of features in the joint space.

    It is for encoders that say `visual_width`: their tower knows more of an image than reaches the joint space. All else is
    the encoder's own.

    Attributes:
        width: E, of the tower's outputs.
    """

    def __init__(self, encoder: Any):
        self._encoder = encoder
        self.width: int = encoder.visual_width

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Compute the tower's outputs: (B, 3, *size) pixels to (B, E)."""
        outputs: Tensor = self._encoder.runtime.run(pixels)
        return outputs

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Give joint features (..., D) and visual features (..., E), both of unit length, of outputs (..., E)."""
        joint: Tensor = self._encoder.finish(outputs.reshape(-1, outputs.shape[-1]))
        return joint.reshape(*outputs.shape[:-1], -1), F.normalize(outputs, dim=-1)
