"""EfficientNet-Lite built from its weights, with batch normalisation folded into the convolutions.

Tan and Le, "EfficientNet", ICML 2019; the Lite variants drop squeeze-and-excitation and use ReLU6. timm has the same model;
importing it takes longer than classifying an image, and folding makes the model twice as fast on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the first block of each stage; all others have 1."""
EPSILON = 1e-3
"""Of batch normalisation."""


class Lite(nn.Module):
    """An ImageNet classifier without its last layer: (B, 3, H, W) normalised pixels to (B, E) features."""

    def __init__(self, weights: Mapping[str, Tensor]):
        """Take the weights under the names of the program that they were saved from."""
        super().__init__()
        self.stem = _Conv(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.Sequential(*_blocks(weights))
        self.head = _Conv(weights, "_conv_head", "_bn1")

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the features that the last layer classifies."""
        features: Tensor = self.head(self.blocks(self.stem(pixels))).mean((2, 3))
        return features


def last_layer(weights: Mapping[str, Tensor]) -> nn.Linear:
    """Build the layer behind `Lite`: (B, E) features to (B, 1000) logits."""
    classes, width = weights["_fc.weight"].shape
    layer = nn.Linear(width, classes)
    layer.load_state_dict({kind: weights[f"_fc.{kind}"] for kind in ("weight", "bias")})
    return layer


class _Conv(nn.Module):
    """Convolution, folded normalisation, ReLU6; padded as TensorFlow does, one more at the end where it is uneven."""

    def __init__(self, weights: Mapping[str, Tensor], conv: str, norm: str, stride: int = 1, acts: bool = True):
        super().__init__()
        kernel = weights[f"{conv}.weight"]
        self._groups = len(kernel) if kernel.shape[1] == 1 else 1
        self._stride, self._acts = stride, acts
        scale = weights[f"{norm}.weight"] * torch.rsqrt(weights[f"{norm}.running_var"] + EPSILON)
        self.kernel = nn.Parameter(kernel * scale[:, None, None, None])
        self.bias = nn.Parameter(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)

    def forward(self, states: Tensor) -> Tensor:
        size, stride = self.kernel.shape[2], self._stride
        before, after = [], []
        for length in states.shape[2:]:
            missing = max((-(-length // stride) - 1) * stride + size - length, 0)
            before.append(missing // 2)
            after.append(missing - missing // 2)
        if before == after:
            outputs = F.conv2d(states, self.kernel, self.bias, stride, before, groups=self._groups)
        else:
            states = F.pad(states, (before[1], after[1], before[0], after[0]))
            outputs = F.conv2d(states, self.kernel, self.bias, stride, groups=self._groups)
        return F.relu6(outputs, inplace=True) if self._acts else outputs


class _Block(nn.Module):
    """Inverted residual (Sandler et al., "MobileNetV2", CVPR 2018): widen, look around, narrow."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, stride: int, adds: bool):
        super().__init__()
        wide = f"{prefix}_expand_conv.weight" in weights
        self.steps = nn.Sequential(
            *([_Conv(weights, f"{prefix}_expand_conv", f"{prefix}_bn0")] if wide else []),
            _Conv(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride),
            _Conv(weights, f"{prefix}_project_conv", f"{prefix}_bn2", acts=False),
        )
        self._adds = adds

    def forward(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.steps(states)
        return outputs + states if self._adds else outputs


def _blocks(weights: Mapping[str, Tensor]) -> list[_Block]:
    """Build all blocks; a stage begins where the number of channels changes."""
    blocks: list[_Block] = []
    strides = iter(STRIDES)
    channels = len(weights["_conv_stem.weight"])
    while f"_blocks.{len(blocks)}._project_conv.weight" in weights:
        prefix = f"_blocks.{len(blocks)}."
        after = len(weights[f"{prefix}_project_conv.weight"])
        begins = after != channels
        blocks.append(_Block(weights, prefix, next(strides) if begins else 1, adds=not begins))
        channels = after
    return blocks
