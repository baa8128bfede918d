"""Encoders of other installed packages: entry points of the group "crossalign.encoders"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crossalign.errors import InputError
from crossalign.plugins import Plugins

NEEDED = ("name", "width", "logit_scale", "fingerprint", "preprocessing", "device", "encode_images", "encode_texts")
"""Attributes that every encoder has; `tower`, `finish` and with them `runtime` may be left out."""

Load = Callable[[str, torch.device], Any]
"""Function of an entry point: (the part of the spec after the colon, device) to an encoder."""


def check(name: str, load: Any) -> Load:
    """Make sure that an entry point leads to a function."""
    if not callable(load):
        raise InputError(f"it is a {type(load).__name__}, but must be a function load(spec, device)")
    function: Load = load
    return function


def load_added(added: Plugins[Load], spec: str, device: torch.device) -> Any:
    """Load a package's encoder.

    Raises:
        InputError: the package cannot be imported, fails, or returns something that is no encoder.
    """
    backend, _, rest = spec.partition(":")
    called = f"encoder {spec!r} of package {added.package(backend)}"
    load = added[backend]
    try:
        encoder = load(rest, device)
    except InputError:
        raise
    except Exception as error:
        # Another package's loader can raise any exception.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{called} cannot be loaded ({reason}); check its spec, or update the package") from error
    if lacking := [name for name in NEEDED if not hasattr(encoder, name)]:
        raise InputError(f"{called} lacks {', '.join(lacking)}, which every encoder has; update the package")
    return encoder


def check_reference(encoder: Any, runtime: str, precision: str | None) -> None:
    """Make sure that only the reference runtime is asked of an encoder without a tower.

    Raises:
        InputError: something else was named.
    """
    if runtime not in ("auto", "torch") or precision not in (None, "f32"):
        raise InputError(
            f"encoder {encoder.name} has no tower for runtime {runtime} with precision {precision or 'auto'}; "
            "it runs on torch in f32 alone"
        )
