"""Any vision-language model that open_clip knows, with published weights, weights from a file, or untrained.

Spec: ARCH/PRETRAINED, where PRETRAINED is one of open_clip's tags, the path of a checkpoint file, or "random".
"""

from __future__ import annotations

import difflib
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders._runtime import Tower, reference
from crossalign.encoders._texts import encode_distinct
from crossalign.encoders._weights import digest
from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing


class OpenClip:
    """An open_clip model with its own preprocessing, tokenizer and logit scale."""

    def __init__(self, name: str, model: Any, tokenizer: Any, device: torch.device):
        self.name = name
        self.device = device
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._text: Any = getattr(model, "text", model)
        self.preprocessing = _preprocessing(model.visual.preprocess_cfg)
        self.logit_scale = float(model.logit_scale.exp())
        self.width = int(self.encode_texts(["a"]).shape[1])
        self.fingerprint = digest([self._model], self.preprocessing)
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
        """Encode K texts to (K, D) normalised float32 features; what exceeds the context is cut, and counted."""
        return encode_distinct(texts, self._tokenize, self._encode_tokens)

    def _tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens: Tensor = self._tokenizer(texts)
        context = tokens.shape[1]
        if not self._causal():
            return tokens, torch.full((len(texts),), context)
        # Where attention is causal, nothing behind the end-of-text token reaches the feature.
        ends = (tokens == self._end_token()).int().argmax(1) + 1
        full = [text for text, end in zip(texts, ends.tolist(), strict=True) if end == context]
        cut = sum(len(self._tokenizer.encode(text)) + 2 > context for text in full)
        if cut:
            warnings.warn(
                f"{cut} of {len(texts)} distinct prompts exceed the {context} tokens of {self.name} and were cut",
                stacklevel=2,
            )
        return tokens, ends

    def _encode_tokens(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        tokens = tokens.to(self.device)
        if not self._causal():
            features = self._model.encode_text(tokens)
        else:
            length = tokens.shape[1]
            prefix = "" if self._text is self._model else "text."
            cut = {
                f"{prefix}positional_embedding": self._text.positional_embedding[:length],
                f"{prefix}attn_mask": self._text.attn_mask[:length, :length],
            }
            features = torch.func.functional_call(self._model, cut, kwargs={"text": tokens})
            features = features["text_features"] if isinstance(features, dict) else features[1]
        return F.normalize(features.float(), dim=-1).cpu()

    def _causal(self) -> bool:
        text = self._text
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        plain = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
        return plain and pool in ("argmax", "eos") and hasattr(self._tokenizer, "eot_token_id")

    def _end_token(self) -> int:
        return int(self._tokenizer.eot_token_id)


class _Images(nn.Module):
    """The image side of an open_clip model, as a module of its own."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        # Normalised in float32 whatever the weights are in.
        return F.normalize(self.model.encode_image(pixels, normalize=False).float(), dim=-1)


def load(spec: str, device: torch.device) -> OpenClip:
    """Load ARCH/PRETRAINED.

    Raises:
        InputError: unknown architecture or tag, or weights that cannot be reached or read.
    """
    import open_clip

    arch, _, pretrained = spec.partition("/")
    known = open_clip.list_models()
    if arch not in known:
        raise InputError(f"open_clip knows no architecture {arch!r}; {_nearest(arch, known)}")
    name = f"open_clip:{spec}"
    if pretrained == "random":
        warnings.warn(f"{name} is untrained: its answers are random; it is for timing and parity tests", stacklevel=2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _create(open_clip, arch, None)
    else:
        tags = open_clip.list_pretrained_tags_by_model(arch)
        if not Path(pretrained).is_file() and pretrained not in tags:
            hint = _nearest(pretrained, tags) if tags else "it has no published weights"
            raise InputError(f"{pretrained!r} is neither a file nor a tag of {arch} in open_clip; {hint}")
        model = _create(open_clip, arch, pretrained)
    return OpenClip(name, model, open_clip.get_tokenizer(arch), device)


def _create(open_clip: Any, arch: str, pretrained: str | None) -> nn.Module:
    try:
        with _quiet_hub(), _weights_alone():
            model: nn.Module = open_clip.create_model(arch, pretrained=pretrained)
    except Exception as error:
        # Hubs, caches and checkpoints fail in many types; whatever it was, the ways out are the same.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise InputError(
            f"the weights of open_clip:{arch}/{pretrained} cannot be loaded ({reason}); give a checkpoint file "
            f"(open_clip:{arch}/PATH), or point HF_HOME at a hub cache that holds them, or use --encoder builtin"
        ) from error
    return model


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Where the hub cannot be found, look in its cache at once, instead of warning and retrying for a minute."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    if not getproxies():
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        constants.HF_HUB_OFFLINE = offline


@contextmanager
def _weights_alone() -> Iterator[None]:
    """Let torch unpickle weights and nothing that runs code.

    open_clip asks for that too, but loads a file again by torch's default if the first time ends in a TypeError, which a
    file can bring about; and an environment variable that many set for old programs makes that default the unsafe one.
    """
    force = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (force, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({name: value for name, value in before.items() if value is not None})


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


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(known[:8])} ..."
