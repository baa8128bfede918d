"""Image towers in OpenVINO: exported once through torch.export, cached, and compiled for this machine's CPU."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossalign.encoders._quiet import quiet_logs, settings_lock
from crossalign.encoders._tower import Run, Tower, to_bytes

INT8_VERSION = 2
"""Raised whenever the same views would give another int8."""


_used_in: int | None = None
"""Id of the process that started OpenVINO: one that is forked from it lacks its threads, and would wait for them forever."""


def precisions() -> list[str]:
    """List what OpenVINO can compute in here; empty if it is not installed, or cannot be used in this process."""
    if importlib.util.find_spec("openvino") is None or _used_in not in (None, os.getpid()):
        return []
    fast = ["bf16"] if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else []
    return ["f32", *fast, *(["int8"] if importlib.util.find_spec("nncf") else [])]


def hint(precision: str | None) -> str:
    """Say how to get a precision that is not there."""
    missing = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if not missing or (precision != "int8" and "openvino" not in missing):
        return ""
    return f"; run `pip install {' '.join(missing)}`"


def machine() -> list[str]:
    """Name what compiled towers depend on: version and processor."""
    if importlib.util.find_spec("openvino") is None:
        return []
    return [f"openvino {_library('openvino').__version__}", str(_core().get_property("CPU", "FULL_DEVICE_NAME"))]


def file_of(folder: Path, calibration: str) -> Path:
    """Name the file of a tower's export; calibration tells what int8 was made by, or is empty."""
    return folder / (f"int8-{calibration}.xml" if calibration else "float32.xml")


def content(file: Path) -> str:
    """Digest an export, so that a damaged one is told from the one that was checked; empty if there is none."""
    parts = [file, file.with_suffix(".bin")]
    if not all(part.exists() for part in parts):
        return ""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(part.read_bytes())
    return hasher.hexdigest()


def load(tower: Tower, precision: str, file: Path, calibration: Tensor | None) -> Run:
    """Compile a tower, exporting it first if its file is not there.

    Args:
        tower: what to compute.
        precision: one of `precisions()`.
        file: see `file_of`.
        calibration: (B, 3, *size) uint8 views to measure the ranges for int8 on.

    Returns:
        What computes (B, 3, *size) pixels to (B, E) float32. It rounds float pixels in [0, 1] to 8 bits.
    """
    if calibration is None:
        model = _cached_model(file, lambda: _export(tower))
    else:
        float_file = file_of(file.parent, "")
        model = _cached_model(file, lambda: _quantise(_cached_model(float_file, lambda: _export(tower)), tower, calibration))
    compiled = _core().compile_model(
        model,
        "CPU",
        {
            # What int8 leaves in floats may be as coarse as it is.
            "INFERENCE_PRECISION_HINT": "bf16" if precision != "f32" and "bf16" in precisions() else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )

    # All calls share one buffer of outputs: another thread's call would overwrite it before it is copied.
    lock = threading.Lock()

    def run(pixels: Tensor) -> Tensor:
        with lock:
            return torch.from_numpy(compiled(to_bytes(pixels).contiguous().numpy())[0].copy())

    return run


def _export(tower: Tower) -> Any:
    example = torch.zeros((2, 3, *tower.preprocessing.size), dtype=torch.uint8)
    with torch.no_grad(), _quiet():
        program = torch.export.export(tower, (example,), dynamic_shapes=({0: torch.export.Dim("views", min=1, max=4096)},))
        model = _library("openvino").convert_model(program)
    model.reshape([-1, 3, *tower.preprocessing.size])
    return model


def _quantise(model: Any, tower: Tower, views: Tensor) -> Any:
    # NNCF draws its bars on standard output, where a command's results go.
    with _quiet(), redirect_stdout(sys.stderr):
        nncf, passes = _library("nncf"), _library("openvino.passes")
        model = model.clone()
        # What is computed from constants alone, such as a depthwise kernel's shape, NNCF would take for an activation.
        manager = passes.Manager()
        manager.register_pass(passes.ConstantFolding())
        manager.run_passes(model)
        attends = any(
            isinstance(layer, nn.MultiheadAttention) or "Attention" in type(layer).__name__ for layer in tower.modules()
        )
        return nncf.quantize(
            model,
            nncf.Dataset([view[None].numpy() for view in views]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(views),
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
            ignored_scope=nncf.IgnoredScope(names=_delicate(model)),
        )


def _delicate(model: Any) -> list[str]:
    """Name the layers that stay in floats: in a net of depthwise convolutions these, the first and the last one.

    They are few operations, and a range for all channels, which differ there, would cost most of the accuracy.
    """
    layers: dict[str, list[str]] = {}
    for layer in model.get_ordered_ops():
        layers.setdefault(layer.get_type_name(), []).append(layer.get_friendly_name())
    depthwise = layers.get("GroupConvolution", [])
    return depthwise and [*depthwise, *layers.get("Convolution", [])[:1], *layers.get("MatMul", [])[-1:]]


def _cached_model(file: Path, make: Callable[[], Any]) -> Any:
    """Read a model from its file, or make it and save it there; a folder that cannot be written is no error."""
    try:
        return _core().read_model(file)
    except RuntimeError:
        model = make()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            fresh = Path(folder) / file.name
            _library("openvino").save_model(model, fresh, compress_to_fp16=False)
            # The weights first: a model without them would be taken for a complete one.
            for suffix in (".bin", ".xml"):
                os.replace(fresh.with_suffix(suffix), file.with_suffix(suffix))
    except (OSError, RuntimeError):
        pass
    return model


@lru_cache(maxsize=1)
def _core() -> Any:
    global _used_in
    _used_in = os.getpid()
    return _library("openvino").Core()


def _library(name: str) -> Any:
    """Import OpenVINO or NNCF without the package by which both report their use over the network.

    Without it they go on silently. Once they are imported, other programs can import that package as if nothing had been.
    """
    telemetry = "openvino_telemetry"
    with settings_lock:
        if name in sys.modules or telemetry in sys.modules:
            return importlib.import_module(name)
        sys.modules[telemetry] = None  # type: ignore[assignment]
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules[telemetry]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporters log and warn of; whether the outcome is right is measured afterwards."""
    with quiet_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
