"""Image and text into one joint space: `load_encoder("backend:spec")`, one module of this package per backend.

Installed packages add backends through entry points of the group "crossalign.encoders".
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from crossalign.encoders._choice import choice_file, read_choice
from crossalign.encoders._description import describe
from crossalign.encoders._packages import check, check_reference, load_added
from crossalign.encoders._runtime import Runtime, Subject, machine, pick_runtime
from crossalign.encoders._short_names import SHORT_NAMES, ShortName, full_spec
from crossalign.encoders._timing import Timing
from crossalign.encoders._timing import time_runtimes as time_subject
from crossalign.encoders._tower import Tower
from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing
from crossalign.images.decoding import ImageLike
from crossalign.plugins import Plugins
from crossalign.store.files import cache_root

__all__ = [
    "ADDED",
    "Encoder",
    "Runtime",
    "SHORT_NAMES",
    "ShortName",
    "Timing",
    "Tower",
    "backends",
    "describe",
    "load_encoder",
    "measured_choice",
    "pick_device",
    "time_runtimes",
]


class Encoder(Protocol):
    """What every backend returns.

    Attributes:
        name: the spec that loads it again, such as "open_clip:ViT-B-32/openai".
        width: D, of the joint space.
        logit_scale: what cosines are multiplied with before a softmax over classes.
        logit_bias: what is added after that, before a sigmoid; None for models that were not trained with a sigmoid.
        activation: of the towers' layers, such as "GELU" or "QuickGELU".
        context: the most tokens of a text; longer ones are truncated, with a warning.
        weights: where they come from, in words.
        fingerprint: hex digest of the weights and of all that changes a feature, but for the runtime.
        tower: the image side's model, pixels to its raw outputs.
        runtime: how the tower is computed.
        preprocessing: how it wants its pixels.
        device: where it computes.

    A package's encoder may leave out tower, finish and runtime together: then it is computed by its own `encode_images`. It
    may also leave out logit_bias, activation, context and weights. It may add `visual_width`, E, if the outputs of its tower
    are a visual feature that knows more of an image than the joint space; see `_visual.VisualEncoder`.

    An encoder that sees images through a fixed list of names may have `nearest_anchor(features (K, D)) -> (K,)`, the highest
    cosine of each text with one of them, and `least_anchor`, below which a `Classifier` warns that it cannot know a label.
    """

    name: str
    width: int
    logit_scale: float
    logit_bias: float | None
    activation: str
    context: int
    weights: str
    fingerprint: str
    preprocessing: Preprocessing
    device: torch.device
    tower: Tower
    runtime: Runtime

    def finish(self, outputs: Tensor) -> Tensor:
        """Turn the tower's outputs (B, E) into (B, D) normalised features."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, *size) pixels, uint8 or float in [0, 1], to (B, D) normalised float32 features on the CPU."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode K texts to (K, D) normalised float32 features on the CPU."""
        ...


def load_encoder(
    spec: str,
    device: str = "auto",
    *,
    runtime: str = "auto",
    precision: str | None = None,
    calibration: Sequence[ImageLike] = (),
) -> Encoder:
    """Load an encoder, such as "builtin", "clip" or "transformers:google/siglip-base-patch16-224".

    Args:
        spec: the backend's name, then after a colon what that backend is to load; or one of `SHORT_NAMES`, such as "clip",
            which stands for "open_clip:ViT-B-16/openai". See docs/encoders.md.
        device: "auto" takes a GPU where there is one; else any name that torch knows, such as "cpu" or "cuda:1".
        runtime: what computes the image tower: "torch", "openvino" (on a CPU), or "auto" for OpenVINO where it is installed
            and else torch. The reference is "torch" with "f32".
        precision: "f32", "bf16", "int8", or None for bf16 where the device gains from it and features agree with the
            reference (on views of photos every cosine is 0.999 or more), and else f32. int8 is never taken unless named.
        calibration: images on which int8 measures the ranges of its numbers; by default photos inside scikit-image.

    Raises:
        InputError: no such backend, model or runtime, its weights cannot be reached, or the device is not available.
    """
    ADDED.refuse(spec.partition(":")[0])
    spec = full_spec(spec)
    backend, _, rest = spec.partition(":")
    if backend not in _own() and backend not in ADDED:
        known = f"known are {', '.join(backends())}, and the short names {', '.join(SHORT_NAMES)}"
        raise InputError(f"encoder {spec!r} names no known backend; {known}")
    chosen = pick_device(device)
    encoder: Encoder
    if backend in ADDED:
        encoder = load_added(ADDED, spec, chosen)
    else:
        encoder = importlib.import_module(f"{__name__}.{backend}").load(rest, chosen)
    if getattr(encoder, "tower", None) is None:
        check_reference(encoder, runtime, precision)
        return encoder
    encoder.runtime = pick_runtime(_subject(encoder), runtime, precision, calibration)
    return encoder


def time_runtimes(encoder: Encoder) -> tuple[list[Timing], Path]:
    """Time all ways to compute an encoder here, and store the outcome: runtime "auto" then takes the fastest that agrees.

    Returns:
        The timings, the fastest first (those that do not agree last), and the file in which they are stored; removing it
        brings back the choice by capability.

    Raises:
        InputError: the encoder is another package's and has no tower, or the outcome cannot be stored.
    """
    if getattr(encoder, "tower", None) is None:
        raise InputError(f"encoder {encoder.name} has no tower, so there is one way to compute it, and nothing to time")
    return time_subject(_subject(encoder))


def measured_choice(encoder: Encoder) -> Path | None:
    """Name the file that `time_runtimes` wrote for an encoder on this machine, if there is one."""
    if getattr(encoder, "tower", None) is None:
        return None
    folder = _subject(encoder).folder
    return choice_file(folder) if read_choice(folder, machine(encoder.device)) else None


def _subject(encoder: Encoder) -> Subject:
    return Subject(encoder.tower, encoder.finish, encoder.device, cache_root() / "towers" / encoder.fingerprint)


def backends() -> list[str]:
    """List the backends: the modules of this package that are not helpers, and those of other packages."""
    return [*_own(), *ADDED.usable()]


def _own() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


ADDED = Plugins("crossalign.encoders", "encoder", lambda: [*_own(), *SHORT_NAMES], check)
"""What packages add: functions load(spec, device)."""


def pick_device(device: str) -> torch.device:
    """Turn "auto" or a torch device name into a device that is available."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"device {device!r} is not available; use 'cpu' or 'auto'") from None
    return torch.device(device)
