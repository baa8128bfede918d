"""Any vision-language model of open_clip, with weights that are published, in a file, in a repository, or untrained.

Spec: ARCH/TAG, ARCH/TAG@FILE, ARCH/FILE, ARCH/random, hf-hub:OWNER/NAME or local-dir:DIR.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders._runtime import reference
from crossalign.encoders._texts import TruncatedTexts, encode_distinct
from crossalign.encoders._tower import Tower
from crossalign.encoders._weights import activations, digest, tokenizer_content
from crossalign.images.crops import Preprocessing


class OpenClip:
    """An open_clip model with its own preprocessing, tokenizer, logit scale and logit bias."""

    def __init__(self, name: str, model: Any, tokenizer: Any, device: torch.device, weights: str = ""):
        self.name = name
        self.device = device
        self.weights = weights
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._text: Any = getattr(model, "text", model)
        self.context = int(tokenizer.context_length)
        self._truncated_texts = TruncatedTexts(name, self.context)
        self.preprocessing = _preprocessing(model.visual.preprocess_cfg)
        self.logit_scale = float(model.logit_scale.exp())
        self.logit_bias = None if model.logit_bias is None else float(model.logit_bias)
        self.activation = activations(model)
        self.width = int(self.encode_texts(["a"]).shape[1])
        self.fingerprint = digest(
            [self._model],
            self.preprocessing,
            self.activation,
            self.context,
            tokenizer_content(getattr(tokenizer, "tokenizer", None)),
        )
        self.tower = Tower(_Images(self._model), self.preprocessing)
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
        tokens: Tensor = self._tokenizer(texts)
        self._truncated_texts.count(self._are_truncated(texts, tokens))
        if not self._causal():
            return tokens, torch.full((len(texts),), tokens.shape[1])
        # Where attention is causal, nothing behind the end-of-text token reaches the feature.
        return tokens, (tokens == int(self._tokenizer.eot_token_id)).int().argmax(1) + 1

    def _are_truncated(self, texts: Sequence[str], tokens: Tensor) -> list[bool]:
        """Say which texts have more tokens than the context: those that also fill a context that is longer by one."""
        last = self._last_place()
        padding = self._tokenizer([""])[0, last]
        full = (tokens[:, last] != padding).nonzero().flatten().tolist()
        truncated = [False] * len(texts)
        if full:
            longer = self._tokenizer([texts[row] for row in full], context_length=self.context + 1)
            for row, filled in zip(full, (longer[:, last] != padding).tolist(), strict=True):
                truncated[row] = filled
        return truncated

    def _last_place(self) -> int:
        """Name the place that is padding unless a text fills its context."""
        if getattr(getattr(self._tokenizer, "tokenizer", None), "padding_side", "right") == "left":
            return 0
        # In this mode of open_clip, a class token stands behind the padding.
        return -2 if getattr(self._tokenizer, "tokenizer_mode", "") == "clips" else -1

    def _encode_tokens(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        tokens = tokens.to(self.device)
        if not self._causal():
            features = self._model.encode_text(tokens)
        else:
            length = tokens.shape[1]
            prefix = "" if self._text is self._model else "text."
            shorter = {
                f"{prefix}positional_embedding": self._text.positional_embedding[:length],
                f"{prefix}attn_mask": self._text.attn_mask[:length, :length],
            }
            features = torch.func.functional_call(self._model, shorter, kwargs={"text": tokens})
            features = features["text_features"] if isinstance(features, dict) else features[1]
        return F.normalize(features.float(), dim=-1).cpu()

    def _causal(self) -> bool:
        text = self._text
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        plain = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
        return plain and pool in ("argmax", "eos") and hasattr(self._tokenizer, "eot_token_id")


class _Images(nn.Module):
    """The image side of an open_clip model, as a module of its own."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        # Normalised in float32 whatever the weights are in.
        return F.normalize(self.model.encode_image(pixels, normalize=False).float(), dim=-1)


def load(spec: str, device: torch.device) -> OpenClip:
    """Load what a spec stands for.

    Raises:
        InputError: unknown architecture or tag, or weights or a tokenizer that cannot be reached or read.
    """
    # Importing open_clip takes seconds, which other encoders need not wait for.
    from crossalign.encoders._open_clip_models import build, parse, tokenizer_of

    source = parse(spec)
    name = f"open_clip:{spec}"
    if source.untrained:
        warnings.warn(f"{name} is untrained: its answers are random; it is for timing and parity tests", stacklevel=2)
    return OpenClip(name, build(source), tokenizer_of(source), device, source.weights)


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    size = config["size"]
    return Preprocessing(
        size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        resize=config["resize_mode"],
        fill=config["fill_color"],
    )
