"""The image side of an encoder: a model with its normalisation before it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from crossalign.images.crops import Preprocessing, normalised

Run = Callable[[Tensor], Tensor]
"""(B, 3, *size) pixels to (B, E) float32 outputs of a tower on the CPU."""


class Tower(nn.Module):
    """A model with its normalisation before it: (B, 3, *size) pixels to (B, E)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        """Take a model; its weights must have the dtype that it is to be handed pixels in."""
        super().__init__()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self._layout) if channels_last else model
        self.preprocessing = preprocessing
        self._dtype = dtype
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocessing, name)).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, in float32, and encode."""
        states = normalised(pixels, self.mean, self.std)
        outputs: Tensor = self.model(states.to(self._dtype).contiguous(memory_format=self._layout))
        return outputs

    def in_bfloat16(self, device: torch.device) -> Tower:
        """Copy it with weights in bfloat16, so that they are not cast in each pass, in the layout that suits the device.

        A GPU's tensor cores read channels-last; from a patch embedding, too, tokens then come out in order. On a CPU it
        helps some towers and hinders others.
        """
        channels_last = device.type == "cuda" or self._layout == torch.channels_last
        return Tower(copy.deepcopy(self.model).to(torch.bfloat16), self.preprocessing, channels_last, torch.bfloat16)


def to_bytes(pixels: Tensor) -> Tensor:
    """Round float pixels in [0, 1] to uint8; uint8 stays."""
    return pixels if pixels.dtype == torch.uint8 else (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
