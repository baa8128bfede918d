"""A dual encoder: one model that encodes images and texts into one joint space; a backend says how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders._runtime import reference
from crossalign.encoders._texts import TruncatedTexts, encode_distinct
from crossalign.encoders._tower import Tower
from crossalign.encoders._weights import activations, digest
from crossalign.images.crops import Preprocessing


class TextSide(Protocol):
    """How a backend encodes texts.

    Attributes:
        context: the most tokens of a text.
        settings: all that changes a feature besides the weights.
    """

    context: int
    settings: tuple[Any, ...]

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor, Sequence[bool]]:
        """Turn K texts into tokens (K, L, ...), the number of tokens (K,) that matter, and whether each was truncated."""
        ...

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode tokens (b, l, ...) to (b, D) features."""
        ...


class DualEncoder:
    """An `Encoder` of one model.

    Args:
        name: the spec that loads it again.
        model: the model on its device, in evaluation mode, without gradients.
        encode_image: the model and (B, 3, *size) normalised pixels to (B, D).
        texts: tokenizes and encodes texts with the model.
        preprocessing: how the model wants its pixels.
        logits: scale, and bias or None.
        device: where it computes.
        weights: where they come from, in words.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        encode_image: Callable[[Any, Tensor], Tensor],
        texts: TextSide,
        preprocessing: Preprocessing,
        logits: tuple[float, float | None],
        device: torch.device,
        weights: str = "",
    ):
        self.name = name
        self.device = device
        self.weights = weights
        self.model = model
        self.texts = texts
        self.context = texts.context
        self.preprocessing = preprocessing
        self.logit_scale, self.logit_bias = logits
        self.activation = activations(self.model)
        self._truncated_texts = TruncatedTexts(name, self.context)
        self.width = int(self.encode_texts(["a"]).shape[1])
        self.fingerprint = digest([self.model], preprocessing, self.activation, *texts.settings)
        self.tower = Tower(_Images(self.model, encode_image), preprocessing)
        self.runtime = reference(self.tower, device)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, *size) pixels to (B, D) normalised float32 features."""
        return self.finish(self.runtime.run(pixels))

    def finish(self, outputs: Tensor) -> Tensor:
        """Give the tower's outputs (B, D) as they are: the tower has normalised them."""
        return outputs

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode K texts to (K, D) normalised float32 features; what exceeds the context is truncated, with a warning."""
        return encode_distinct(texts, self._tokenize, self._encode_tokens)

    def _tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens, lengths, truncated = self.texts.tokenize(texts)
        self._truncated_texts.count(truncated)
        return tokens, lengths

    def _encode_tokens(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return F.normalize(self.texts.encode(tokens.to(self.device), lengths).float(), dim=-1).cpu()


class _Images(nn.Module):
    """The image side of a model, as a module of its own."""

    def __init__(self, model: nn.Module, encode: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.model = model
        self._encode = encode

    def forward(self, pixels: Tensor) -> Tensor:
        # Normalised in float32 whatever the weights are in.
        return F.normalize(self._encode(self.model, pixels).float(), dim=-1)
