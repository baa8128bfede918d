"""Dual encoders of the transformers library: whatever model of it has get_image_features and get_text_features.

Spec: the name of a repository on the hub, or a folder. Weights are read from safetensors alone, and no code that comes with
a model is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossalign.encoders._dual import DualEncoder
from crossalign.encoders._hub import quiet_hub, reason_of
from crossalign.encoders._image_processor import preprocessing_of
from crossalign.encoders._weights import tokenizer_content
from crossalign.errors import InputError, need_package

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
NOT_SAVED = ("position_ids",)
"""Last part of the names of tensors that a model makes itself."""


class HubTexts:
    """The text side of a model of the transformers library."""

    def __init__(self, model: Any, tokenizer: Any):
        text = getattr(model.config, "text_config", model.config)
        self.context = min(int(tokenizer.model_max_length), int(text.max_position_embeddings))
        # SigLIP and its like were trained on texts that are padded to the context, and attend to the padding.
        self._masked = "attention_mask" in tokenizer.model_input_names and not model.config.model_type.startswith("siglip")
        self.settings = (self.context, self._masked, tokenizer_content(tokenizer))
        self._model, self._tokenizer = model, tokenizer

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor, list[bool]]:
        """Give tokens and their mask as (K, L, 2); see `TextSide`."""
        batch = self._tokenizer(
            texts,
            padding=True if self._masked else "max_length",
            truncation=True,
            max_length=self.context,
            return_attention_mask=True,
            return_tensors="pt",
        )
        lengths = batch.attention_mask.sum(1)
        full = [text for text, length in zip(texts, lengths.tolist(), strict=True) if length == self.context]
        longer = self._tokenizer(full, truncation=False, verbose=False).input_ids if full else []
        truncated = sum(len(tokens) > self.context for tokens in longer)
        tokens = torch.stack([batch.input_ids, batch.attention_mask], dim=-1)
        # Padding on the left, or without a mask, is part of what the model sees.
        shortened = self._masked and self._tokenizer.padding_side == "right"
        needed = lengths if shortened else torch.full_like(lengths, tokens.shape[1])
        return tokens, needed, [True] * truncated + [False] * (len(texts) - truncated)

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode tokens; see `TextSide`."""
        ids, mask = tokens.unbind(-1)
        inputs = {"input_ids": ids, "attention_mask": mask} if self._masked else {"input_ids": ids}
        return _features(self._model.get_text_features(**inputs))


def _encode_image(model: Any, pixels: Tensor) -> Tensor:
    return _features(model.get_image_features(pixel_values=pixels))


def _features(outputs: Any) -> Tensor:
    """Take the features out of what the library returns: a tensor before its version 5, an object from then on."""
    features: Tensor = outputs if isinstance(outputs, Tensor) else outputs.pooler_output
    return features


def _logits(model: Any, name: str) -> tuple[float, float | None]:
    """Give logit scale and bias; ALIGN's temperature is the scale's inverse."""
    bias = getattr(model, "logit_bias", None)
    if hasattr(model, "logit_scale"):
        scale = float(model.logit_scale.exp())
    elif hasattr(model, "temperature"):
        scale = 1 / float(model.temperature)
    else:
        raise InputError(
            f"{name} has no logit scale, so it gives no probabilities; take a model trained on pairs, such as CLIP"
        )
    return scale, None if bias is None else float(bias)


def load(spec: str, device: torch.device) -> DualEncoder:
    """Load a repository of the hub or a folder.

    Raises:
        InputError: the library is not installed, or the model cannot be reached or read, or is no dual encoder.
    """
    name = f"transformers:{spec}"
    need_package("transformers", "transformers", name)
    folder = Path(spec).expanduser()
    if not spec or (not folder.is_dir() and (spec.startswith(("/", "./", "../", "~")) or spec.count("/") > 1)):
        raise InputError(f"{name} names a folder that does not exist; give a folder with config.json, or a name on the hub")
    where = str(folder) if folder.is_dir() else spec
    try:
        with quiet_hub():
            model, tokenizer, processor = _parts(where, name)
        model = model.to(device).eval().requires_grad_(False)
        # What the model makes of its inputs is tried at once, so that what does not fit fails here.
        return DualEncoder(
            name,
            model,
            _encode_image,
            HubTexts(model, tokenizer),
            preprocessing_of(processor, name),
            _logits(model, name),
            device,
            f"{'folder' if folder.is_dir() else 'hub repository'} {where}",
        )
    except InputError:
        raise
    except Exception as error:
        # Hubs, configs, tokenizers and models of all kinds fail in many types.
        way_out = (
            "check that the folder has config.json, model.safetensors, preprocessor_config.json and its tokenizer's files"
            if folder.is_dir()
            else f"check the name, download {spec} where there is a network, or point HF_HOME at a hub cache that holds it"
        )
        raise InputError(f"{name} cannot be loaded ({reason_of(error)}); {way_out}") from error


def _parts(where: str, name: str) -> tuple[Any, Any, Any]:
    """Load model, tokenizer and image processor."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    _need_safetensors(where, name)
    with _no_bars():
        model, report = transformers.AutoModel.from_pretrained(
            where, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise InputError(
            f"{name} is a {type(model).__name__}, which encodes no images and texts; give a dual encoder such as CLIP"
        )
    missing = sorted(key for key in report["missing_keys"] if key.split(".")[-1] not in NOT_SAVED)
    if missing or report["mismatched_keys"]:
        raise InputError(
            f"the weights of {name} are not those of a {type(model).__name__}: {len(missing)} are missing, such as "
            f"{(missing or list(report['mismatched_keys']))[0]}; download or save the model again"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    processor = transformers.AutoImageProcessor.from_pretrained(where, trust_remote_code=False)
    return model.float(), tokenizer, processor


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hold back the bar that the library shows while it fills a model with its weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _need_safetensors(where: str, name: str) -> None:
    """Make sure that there are safetensors; without them the library would ask a service on the hub to convert pickles."""
    if Path(where).is_dir():
        has_safetensors = any((Path(where) / file).is_file() for file in SAFETENSORS)
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        has_safetensors = False
        for file in SAFETENSORS:
            try:
                hf_hub_download(where, file)
                has_safetensors = True
                break
            except EntryNotFoundError:
                continue
    if not has_safetensors:
        raise InputError(
            f"{name} has no {SAFETENSORS[0]}; other weights are not loaded, since a pickle can run code: save the model "
            "again with save_pretrained"
        )
