"""Read a state dict from a file of weights, whatever program wrote it, without running code out of the file."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossalign.encoders._torchscript import NotWeights, is_archive, read_archive
from crossalign.errors import InputError

LFS = b"version https://git-lfs"
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training programs save the state dict."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before the names of all parameters."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read names and tensors: safetensors, what torch.save wrote, or a TorchScript archive.

    Nothing in the file is executed: torch reads pickles as weights only, and archives are read by `_torchscript`.

    Raises:
        InputError: the file is not there, no file of weights, truncated, or holds more than weights.
    """
    named = f"weights file {str(file)!r}"
    try:
        with file.open("rb") as opened:
            start = opened.read(512)
        size = file.stat().st_size
    except OSError as error:
        raise InputError(f"{named} cannot be read ({error.strerror}); check the path") from None
    if start.startswith(LFS):
        raise InputError(f"{named} is a Git LFS pointer, not the weights; run `git lfs pull` where it came from")
    try:
        if start[8:9] == b"{":
            return _safetensors(file)
        if start.startswith(b"PK"):
            return _from_zip(file)
        if start.startswith(b"\x80"):
            return _state_dict(_load(file))
    except NotWeights as error:
        raise InputError(
            f"{named} holds more than weights ({error}), which is not loaded, since it could run code; "
            "save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    except _NoWeights:
        raise InputError(f"{named} holds no weights by name; give a state dict") from None
    except Exception as error:
        # zipfile, pickle, torch and safetensors fail on damaged bytes in many types.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{named} ({size} bytes) is damaged or truncated ({reason}); download or copy it again") from None
    raise InputError(f"{named} is no file of weights; give one of torch (.pt, .bin), TorchScript or safetensors")


class _NoWeights(Exception):
    pass


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return _state_dict(load_file(file))


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        match = re.search(r"(?:GLOBAL |global:? |class )([\w.]+\.[\w.]+)", str(error))
        if match is None:
            raise
        raise NotWeights(match[1]) from None


def _from_zip(file: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(file) as archive:
        if is_archive(archive.namelist()):
            return _state_dict(read_archive(archive))
    return _state_dict(_load(file))


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Unwrap a checkpoint and take away what stands before all names."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise _NoWeights
    weights = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise _NoWeights
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
