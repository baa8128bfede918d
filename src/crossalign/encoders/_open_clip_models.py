"""Which model a spec of open_clip names, and how it is built: architecture, activation, preprocessing and weights."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor, nn

from crossalign.encoders._checkpoints import read_weights
from crossalign.encoders._hub import quiet_hub, reason_of, weights_only
from crossalign.errors import InputError, need_package

SCHEMES = ("hf-hub:", "local-dir:")
WEIGHTS_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Names of the file with the weights in a model's folder, the most reliable first."""
NOT_WEIGHTS = ("attn_mask", "context_length", "input_resolution", "position_ids", "vocab_size")
"""Last part of the names of tensors that some files hold and that the model computes itself."""


@dataclass(frozen=True)
class Source:
    """The model that a spec names.

    Attributes:
        spec: what was given, without "open_clip:".
        arch: of open_clip, or "hf-hub:OWNER/NAME", or "local-dir:DIR".
        tag: published weights that decide activation and preprocessing; empty if the architecture's config does.
        file: weights to read; None if open_clip fetches them, or there are none.
        weights: where they come from, and what they are taken for, in words.
    """

    spec: str
    arch: str
    tag: str = ""
    file: Path | None = None
    weights: str = ""

    @property
    def untrained(self) -> bool:
        """Whether the weights are random."""
        return not self.tag and self.file is None and not self.arch.startswith(SCHEMES)

    @property
    def quick_gelu(self) -> bool:
        """Whether the weights were trained with QuickGELU: the tag says so, or the architecture's config does."""
        return bool(
            published(self.arch, self.tag).get("quick_gelu") or open_clip.get_model_config(self.arch).get("quick_gelu")
        )


def published(arch: str, tag: str) -> dict[str, Any]:
    """Return what open_clip knows about published weights; empty if it knows none of that name."""
    config: dict[str, Any] = open_clip.get_pretrained_cfg(arch, tag) if tag else {}
    return config


def parse(spec: str) -> Source:
    """Parse a spec: ARCH/TAG, ARCH/TAG@FILE, ARCH/FILE, ARCH/random, hf-hub:OWNER/NAME or local-dir:DIR.

    Raises:
        InputError: an unknown architecture or tag, a file that is not there, or one that needs its tag said.
    """
    if spec.startswith("hf-hub:"):
        return Source(spec, spec, weights=f"hub repository {spec.removeprefix('hf-hub:')}")
    if spec.startswith("local-dir:"):
        folder = Path(spec.removeprefix("local-dir:")).expanduser()
        file = _weights_in(folder)
        return Source(spec, f"local-dir:{folder}", file=file, weights=f"file {file}")
    arch, _, pretrained = spec.partition("/")
    known = open_clip.list_models()
    if arch not in known:
        raise InputError(f"open_clip knows no architecture {arch!r}; {_nearest(arch, known)}")
    if pretrained == "random":
        return Source(spec, arch, weights="random, untrained")
    if config := published(arch, pretrained):
        return Source(spec, arch, pretrained, weights=config["hf_hub"] or config["url"])
    tag, at, path = pretrained.partition("@")
    if at and published(arch, tag):
        return Source(spec, arch, tag, _existing(path), f"file {path}, taken for {arch}/{tag}")
    file = Path(pretrained).expanduser()
    if file.is_dir():
        raise InputError(f"{pretrained!r} is a folder; {_of_folder(file)}")
    if not file.is_file():
        tags = open_clip.list_pretrained_tags_by_model(arch)
        hint = _nearest(tag, tags) if tags else "it has no published weights"
        raise InputError(f"{pretrained!r} is neither a file nor a tag of {arch} in open_clip; {hint}")
    tag, why = _tag_of(arch, file)
    return Source(spec, arch, tag, file, f"file {file}, {why}")


def _tag_of(arch: str, file: Path) -> tuple[str, str]:
    """Find the tag that has the activation and preprocessing of a file's weights, and say how that is known."""
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not tags:
        return "", f"with the configuration of {arch}, which has no published weights"
    if len({_settings(arch, tag) for tag in tags}) == 1:
        return tags[0], f"with activation and preprocessing of {arch}'s published weights, which all agree"
    digest = _sha256(file)
    for other, tag in open_clip.list_pretrained():
        if _published_digest(published(other, tag)) == digest:
            if other.removesuffix("-quickgelu") != arch.removesuffix("-quickgelu"):
                raise InputError(f"weights file {str(file)!r} is {other}/{tag}; name it as open_clip:{other}/{tag}@{file}")
            return tag, f"known by its SHA-256 as {arch}/{tag}"
    raise InputError(
        f"weights file {str(file)!r} does not say how it was trained, and the published weights of {arch} differ in "
        f"activation or preprocessing; give its tag as open_clip:{arch}/TAG@{file}, one of {', '.join(tags)}"
    )


def _settings(arch: str, tag: str) -> tuple[object, ...]:
    config = published(arch, tag)
    pixels = (tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["resize_mode"])
    return Source("", arch, tag).quick_gelu, *pixels


def _published_digest(config: Mapping[str, Any]) -> str:
    """Give the SHA-256 that OpenAI's URLs hold as a folder; empty for other weights."""
    url = str(config.get("url", ""))
    return url.split("/")[-2] if "openaipublic" in url else ""


def _sha256(file: Path) -> str:
    hasher = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                hasher.update(block)
        return hasher.hexdigest()
    except OSError as error:
        raise InputError(f"weights file {str(file)!r} cannot be read ({error.strerror}); check the path") from None


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"weights file {path!r} is not there; check the path behind the @")
    return file


def _of_folder(folder: Path) -> str:
    if (folder / "open_clip_config.json").is_file():
        return f"a model of open_clip in a folder is open_clip:local-dir:{folder}"
    if (folder / "config.json").is_file():
        return f"a model of transformers in a folder is transformers:{folder}"
    return f"name a file in it, or a folder with an open_clip_config.json as open_clip:local-dir:{folder}"


def _weights_in(folder: Path) -> Path:
    named = f"folder {str(folder)!r}"
    if not folder.is_dir():
        raise InputError(f"{named} is not there; give local-dir:DIR a folder with open_clip_config.json and weights")
    if not (folder / "open_clip_config.json").is_file():
        hint = f"; as a model of transformers it is transformers:{folder}" if (folder / "config.json").is_file() else ""
        raise InputError(f"{named} holds no open_clip_config.json, which says what model its weights are of{hint}")
    inside = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    by_name = [name for name in WEIGHTS_NAMES if name in inside] or inside
    if not by_name:
        raise InputError(f"{named} holds no weights; put them there as {WEIGHTS_NAMES[0]}")
    if by_name is inside and len(inside) > 1:
        raise InputError(
            f"{named} holds several files of weights ({', '.join(inside)}); call the right one {WEIGHTS_NAMES[0]}"
        )
    return folder / by_name[0]


def build(source: Source) -> nn.Module:
    """Build the model with its weights, activation and preprocessing.

    Raises:
        InputError: its weights or config cannot be reached or read, or are not this architecture's.
    """
    try:
        with quiet_hub(), weights_only(), warnings.catch_warnings():
            # open_clip warns of architectures with QuickGELU in their config alone; they are built with it.
            warnings.filterwarnings("ignore", message="QuickGELU mismatch", category=UserWarning)
            text = (open_clip.get_model_config(source.arch) or {}).get("text_cfg", {})
            if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
                need_package("transformers", "transformers", f"open_clip:{source.spec}")
            return _build(source)
    except InputError:
        raise
    except Exception as error:
        # Hubs, caches, configs and checkpoints fail in many types.
        raise InputError(_failure(source, reason_of(error))) from error


def _build(source: Source) -> nn.Module:
    if source.arch.startswith(SCHEMES):
        model = _create(source.arch, load_weights=False, pretrained_text=False)
        repository = source.arch.removeprefix("hf-hub:")
        file = source.file or Path(download_pretrained_from_hf(repository))
        load_into(model, read_weights(file), file, source.arch)
    elif source.untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _create(source.arch, pretrained_text=False)
    elif source.file is None:
        model = _create(source.arch, pretrained=source.tag, force_quick_gelu=source.quick_gelu)
    else:
        model = _create(
            source.arch,
            pretrained_text=False,
            force_quick_gelu=source.quick_gelu,
            force_preprocess_cfg=published(source.arch, source.tag),
        )
        if source.file.suffix == ".npz":
            open_clip.convert.load_big_vision_weights(model, str(source.file))
        else:
            load_into(model, read_weights(source.file), source.file, source.arch)
    return model


def _create(arch: str, **options: Any) -> nn.Module:
    model: nn.Module = factory.create_model(arch, **options)
    return model


def _failure(source: Source, reason: str) -> str:
    what = f"open_clip:{source.spec} cannot be loaded ({reason})"
    if source.arch.startswith("local-dir:"):
        return f"{what}; check its open_clip_config.json, and that all it names is there or in the hub's cache (HF_HOME)"
    if source.arch.startswith("hf-hub:"):
        name = source.arch.removeprefix("hf-hub:")
        way_out = "where there is a network, or point HF_HOME at a hub cache that holds it"
        return f"{what}; check the name, download {name} {way_out}"
    if source.file is not None or source.untrained:
        return (
            f"{what}; what {source.arch} needs beside its weights comes from a hub: point HF_HOME at a cache that holds it"
        )
    return (
        f"{what}; give the weights as a file (open_clip:{source.arch}/{source.tag}@FILE), or point HF_HOME at a hub cache "
        'that holds them, or use the encoder "builtin"'
    )


def load_into(model: nn.Module, weights: dict[str, Tensor], file: Path, arch: str) -> None:
    """Load weights into a model, all of them and no others.

    Raises:
        InputError: they are of another program or architecture.
    """
    named = f"weights file {str(file)!r}"
    if any(name.startswith(("text_model.", "vision_model.")) for name in weights):
        raise InputError(f"{named} is of the transformers library; give its folder as transformers:DIR")
    weights = open_clip.convert.convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = open_clip.model.convert_to_custom_text_state_dict(weights)
    needed = model.state_dict()
    weights = {name: value for name, value in weights.items() if name in needed or name.split(".")[-1] not in NOT_WEIGHTS}
    for name in ("logit_scale", "logit_bias"):
        # Some programs save these as vectors of one number.
        if name in weights and name in needed and weights[name].numel() == needed[name].numel() == 1:
            weights[name] = weights[name].reshape(needed[name].shape)
    for name in (name for name in needed if name in weights):
        if weights[name].shape != needed[name].shape:
            raise InputError(
                f"{named} is of another architecture than {arch}: {name} has shape {tuple(weights[name].shape)}, but "
                f"{tuple(needed[name].shape)} is needed; name the architecture that was trained"
            )
    lacking, foreign = [n for n in needed if n not in weights], [n for n in weights if n not in needed]
    if lacking or foreign:
        lacks = f"it lacks {len(lacking)} of {len(needed)} weights, such as {lacking[0]}" if lacking else ""
        has = f"it has {len(foreign)} that are unknown there, such as {foreign[0]}" if foreign else ""
        raise InputError(
            f"{named} is not of architecture {arch}: {' and '.join(filter(None, (lacks, has)))}; name the architecture that "
            "was trained, or give a state dict of open_clip"
        )
    model.load_state_dict(weights)


def tokenizer_of(source: Source) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises:
        InputError: it cannot be had.
    """
    try:
        with quiet_hub():
            return open_clip.get_tokenizer(source.arch)
    except Exception as error:
        if source.arch.startswith("local-dir:"):
            way_out = "put its files (tokenizer.json, tokenizer_config.json) into the folder"
        else:
            way_out = (
                "it comes from a hub: load it once where there is a network, or point HF_HOME at a hub cache that holds it"
            )
        raise InputError(
            f"the tokenizer of open_clip:{source.spec} cannot be loaded ({reason_of(error)}); {way_out}"
        ) from error


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(known[:8])} ..."
