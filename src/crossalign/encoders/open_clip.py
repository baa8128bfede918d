"""Any vision-language model of open_clip, with weights that are published, in a file, in a repository, or untrained.

Spec: ARCH/TAG, ARCH/TAG@FILE, ARCH/FILE, ARCH/random, hf-hub:OWNER/NAME or local-dir:DIR.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crossalign.encoders._dual import DualEncoder
from crossalign.encoders._weights import tokenizer_content
from crossalign.images.crops import Preprocessing


class ClipTexts:
    """The text side of an open_clip model."""

    def __init__(self, model: Any, tokenizer: Any):
        self.tokenizer = tokenizer
        self.context = int(tokenizer.context_length)
        self.settings = (self.context, tokenizer_content(getattr(tokenizer, "tokenizer", None)))
        self._model = model
        self._text: Any = getattr(model, "text", model)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor, list[bool]]:
        """Tokenize; see `TextSide`."""
        tokens: Tensor = self.tokenizer(texts)
        lengths = torch.full((len(texts),), tokens.shape[1])
        if self.is_causal():
            # Where attention is causal, nothing behind the end-of-text token reaches the feature.
            lengths = (tokens == int(self.tokenizer.eot_token_id)).int().argmax(1) + 1
        return tokens, lengths, self._are_truncated(texts, tokens)

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode tokens; see `TextSide`."""
        if not self.is_causal():
            features: Tensor = self._model.encode_text(tokens)
            return features
        length = tokens.shape[1]
        prefix = "" if self._text is self._model else "text."
        shorter = {
            f"{prefix}positional_embedding": self._text.positional_embedding[:length],
            f"{prefix}attn_mask": self._text.attn_mask[:length, :length],
        }
        outputs = torch.func.functional_call(self._model, shorter, kwargs={"text": tokens})
        features = outputs["text_features"] if isinstance(outputs, dict) else outputs[1]
        return features

    def is_causal(self) -> bool:
        """Whether attention is causal, and the feature is that of the end-of-text token."""
        text = self._text
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        plain = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
        return plain and pool in ("argmax", "eos") and hasattr(self.tokenizer, "eot_token_id")

    def _are_truncated(self, texts: Sequence[str], tokens: Tensor) -> list[bool]:
        """Whether each text has more tokens than the context: it then also fills a context that is longer by one."""
        last = self._last_place()
        padding = self.tokenizer([""])[0, last]
        full = (tokens[:, last] != padding).nonzero().flatten().tolist()
        truncated = [False] * len(texts)
        if full:
            longer = self.tokenizer([texts[row] for row in full], context_length=self.context + 1)
            for row, filled in zip(full, (longer[:, last] != padding).tolist(), strict=True):
                truncated[row] = filled
        return truncated

    def _last_place(self) -> int:
        """Index of the token that is padding unless a text fills its context."""
        if getattr(getattr(self.tokenizer, "tokenizer", None), "padding_side", "right") == "left":
            return 0
        # In this mode of open_clip, a class token follows the padding.
        return -2 if getattr(self.tokenizer, "tokenizer_mode", "") == "clips" else -1


def load(spec: str, device: torch.device) -> DualEncoder:
    """Load the model of a spec.

    Raises:
        InputError: unknown architecture or tag, or weights or a tokenizer that cannot be reached or read.
    """
    # Importing open_clip takes seconds, which other encoders need not wait for.
    from crossalign.encoders._open_clip_models import build, parse, tokenizer_of

    source = parse(spec)
    name = f"open_clip:{spec}"
    if source.untrained:
        warnings.warn(f"{name} is untrained: its answers are random; it is for timing and parity tests", stacklevel=2)
    model: Any = build(source)
    texts = ClipTexts(model, tokenizer_of(source))
    model.to(device).eval().requires_grad_(False)
    logits = (float(model.logit_scale.exp()), None if model.logit_bias is None else float(model.logit_bias))
    return DualEncoder(
        name,
        model,
        _encode_image,
        texts,
        _preprocessing(model.visual.preprocess_cfg),
        logits,
        device,
        source.weights,
    )


def _encode_image(model: Any, pixels: Tensor) -> Tensor:
    features: Tensor = model.encode_image(pixels, normalize=False)
    return features


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
