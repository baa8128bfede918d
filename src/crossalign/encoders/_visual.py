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


def visual_encoder(encoder: Any) -> Any:
    """Give what encodes images into the encoder's visual space: the encoder itself, unless it says `visual_width`."""
    return VisualEncoder(encoder) if getattr(encoder, "visual_width", None) else encoder


def joint_and_visual(image_encoder: Any, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Give features (..., D) in the joint space and (..., E) in the visual space, both of unit length.

    Args:
        image_encoder: what encoded the images; see `visual_encoder`.
        outputs: (..., E) what it gave. Without a visual space of its own they are both.
    """
    if not isinstance(image_encoder, VisualEncoder):
        return outputs, outputs
    joint: Tensor = image_encoder.finish(outputs.reshape(-1, outputs.shape[-1]))
    return joint.reshape(*outputs.shape[:-1], -1), F.normalize(outputs, dim=-1)
