"""How an image tower is computed: by torch or OpenVINO, in float32, bfloat16 or int8.

Torch in float32 is the reference. Every other way is compared with it on views of photos before it is used. Which one is
used does not depend on time: the same machine gives the same choice in every process, busy or not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import crossalign.encoders._openvino as openvino
import crossalign.encoders._torch as torch_engine
from crossalign.encoders._choice import read_choice
from crossalign.encoders._tower import Run, Tower
from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing, ViewRecipe, crop_views
from crossalign.images.decoding import ImageLike, read_image
from crossalign.store.files import write_atomically

log = logging.getLogger("crossalign")

LEAST_COSINE = 0.999
"""Between a view's feature and its reference, below which a runtime is not chosen unless its precision is named."""
CHECK_VIEWS = 16
CALIBRATION_VIEWS = 128
ENGINES = ("auto", "torch", "openvino")
"""What `runtime` may be."""
PRECISIONS = ("f32", "bf16", "int8")
REFERENCE = ("torch", "f32")

Way = tuple[str, str]
"""Engine and precision."""


@dataclass(frozen=True)
class Runtime:
    """One way to compute a tower.

    Attributes:
        engine: "torch" or "openvino".
        precision: "f32", "bf16" or "int8".
        run: does it.
        cosine: the lowest between a view's feature and its reference, over the self-check's views.
        calibration: digest of the views that int8 was calibrated on and of how, or empty.
    """

    engine: str
    precision: str
    run: Run = field(repr=False, compare=False)
    cosine: float = 1.0
    calibration: str = ""

    @property
    def key(self) -> str:
        """What features that it gave are cached under; empty for the reference."""
        name = "-".join(filter(None, (self.engine, self.precision, self.calibration)))
        # "torch-bf16" was autocast's, which rounds elsewhere.
        return {"torch-f32": "", "torch-bf16": "torch-bf16-weights"}.get(name, name)

    def to_dict(self) -> dict[str, Any]:
        """Give what results say of it."""
        return {"engine": self.engine, "precision": self.precision, "self_check": {"lowest_cosine": self.cosine}}


@dataclass(frozen=True)
class Subject:
    """What is to be computed.

    Attributes:
        tower: pixels to outputs (B, E).
        finish: the outputs to normalised features (B, D), for the comparison.
        device: where torch computes; OpenVINO computes on the CPU alone.
        folder: holds exported towers, the outcomes of comparisons, and what was measured.
    """

    tower: Tower
    finish: Callable[[Tensor], Tensor]
    device: torch.device
    folder: Path


def reference(tower: Tower, device: torch.device) -> Runtime:
    """Compute by torch in float32."""
    return Runtime(*REFERENCE, torch_engine.load(tower, device, "f32"))


def pick_runtime(subject: Subject, engine: str, precision: str | None, calibration: Sequence[ImageLike] = ()) -> Runtime:
    """Take the first way of `preferred_ways` that can be used here and agrees with the reference.

    Args:
        subject: what is to be computed.
        engine: one of `ENGINES`.
        precision: one of `PRECISIONS`, or None for bf16 where the device gains from it and features agree, and else f32;
            who names bf16 or int8 gets it, even if it does not agree.
        calibration: images to measure the ranges for int8 on; example photos if there are none.

    Raises:
        InputError: what was asked for is not available on this machine.
    """
    ways = preferred_ways(subject.device, engine, precision)
    if engine == "auto" and precision is None:
        measured = read_choice(subject.folder, machine(subject.device))
        ways = [measured, *ways] if measured else ways
    check = Check(subject, calibration if precision == "int8" else None)
    lowest, failures = -1.0, []
    for way in ways:
        if way == REFERENCE:
            return reference(subject.tower, subject.device)
        try:
            cosine = check.cosine(way)
            lowest = max(lowest, cosine)
            if cosine >= LEAST_COSINE or precision in ("bf16", "int8"):
                return Runtime(*way, check.run(way), cosine, check.calibration)
        except Exception as error:
            # Exporters fail in many types on an architecture that they do not know.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            failures.append(f"runtime {way[0]} with precision {way[1]} cannot be used here ({reason})")
            log.warning("%s", failures[-1])
    if failures and lowest < 0:
        raise InputError(failures[-1])
    raise InputError(
        f"runtime {engine} gives other features than torch (lowest cosine {lowest:.4f}); "
        f"its export may be damaged: remove {str(subject.folder)!r}, or use runtime torch"
    )


def preferred_ways(device: torch.device, engine: str, precision: str | None) -> list[Way]:
    """List the available ways, the best first: OpenVINO before torch, and bf16 before f32 where it gains.

    Raises:
        InputError: no such engine or precision, or it is not available on this device.
    """
    if engine not in ENGINES:
        raise InputError(f"runtime is {engine!r}, but must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if precision not in (None, *PRECISIONS):
        raise InputError(f"precision is {precision!r}, but must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    available = {"openvino": openvino.precisions() if device.type == "cpu" else [], "torch": ["f32", "bf16"]}
    engines = [name for name in available if engine in ("auto", name)]
    precisions = [precision] if precision else ["bf16", "f32"] if torch_engine.gains_from_bf16(device) else ["f32"]
    ways = [(e, p) for e in engines for p in precisions if p in available[e]]
    if ("openvino", "f32") in ways and engine == "auto":
        # A lower precision of torch's is no alternative to OpenVINO, whose f32 is as fast or faster.
        ways = [way for way in ways if way != ("torch", "bf16")]
    if not ways:
        missing = "none, since it is not installed, was started before this process was forked, or the device is no CPU"
        raise InputError(
            f"runtime {engine} with precision {precision or 'auto'} is not available on {device.type}; "
            f"torch has f32 and bf16, openvino has {', '.join(available['openvino']) or missing}{openvino.hint(precision)}"
        )
    return ways


def machine(device: torch.device) -> list[str]:
    """Name what the outcome and time of a computation depend on: device, processor, threads and versions."""
    return [*torch_engine.machine(device), *openvino.machine()]


class Check:
    """Compares ways with the reference, once per machine."""

    def __init__(self, subject: Subject, calibration: Sequence[ImageLike] | None = None):
        """Take what is to be computed, and images for int8 to measure its ranges on (none: examples; None: no int8)."""
        self._subject = subject
        self._views, self.calibration = None, ""
        if calibration is not None:
            self._views = example_views(subject.tower.preprocessing, CALIBRATION_VIEWS, calibration)
            content = bytes([openvino.INT8_VERSION]) + self._views.numpy().tobytes()
            self.calibration = hashlib.blake2b(content, digest_size=8).hexdigest()
        self._reference: Tensor | None = None
        self._runs: dict[Way, Run] = {}

    def run(self, way: Way) -> Run:
        """Make a way ready to compute."""
        if way not in self._runs:
            engine, precision = way
            if engine == "torch":
                self._runs[way] = torch_engine.load(self._subject.tower, self._subject.device, precision)
            else:
                self._runs[way] = openvino.load(self._subject.tower, precision, self._export(), self._views)
        return self._runs[way]

    def cosine(self, way: Way) -> float:
        """Give the lowest cosine to the reference, computed now or before."""
        exported = way[0] == "openvino"
        if exported and not openvino.content(self._export()):
            # Made now, so that what fails does so before it is chosen.
            self.run(way)
        made_of = openvino.content(self._export()) if exported else "weights"
        settings = {"way": [*way, made_of], "machine": machine(self._subject.device)}
        digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
        file = self._subject.folder / f"check-{digest}.json"
        try:
            return float(json.loads(file.read_text(encoding="utf-8"))["lowest_cosine"])
        except (OSError, ValueError, LookupError, TypeError):
            cosine = self._measure(self.run(way))
        # A folder that cannot be written costs the next process a second look, no more.
        with suppress(InputError):
            write_atomically(file, json.dumps(settings | {"lowest_cosine": cosine}, indent=2).encode())
        return cosine

    def _export(self) -> Path:
        return openvino.file_of(self._subject.folder, self.calibration)

    def _measure(self, run: Run) -> float:
        tower, finish = self._subject.tower, self._subject.finish
        views = example_views(tower.preprocessing, CHECK_VIEWS)
        if self._reference is None:
            self._reference = finish(reference(tower, self._subject.device).run(views))
        return F.cosine_similarity(finish(run(views)), self._reference).min().item()


EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
"""Photos inside scikit-image."""


def example_views(preprocessing: Preprocessing, count: int, images: Sequence[ImageLike] = ()) -> Tensor:
    """Crop views of images, or of example photos if there are none: (count, 3, *size) uint8."""
    photos = resources.files("skimage") / "data"
    images = images or [str(photos / name) for name in EXAMPLES]
    each = -(-count // len(images)) - 1
    views = [
        crop_views(read_image(image), ViewRecipe(each, (0.1, 0.9), 0), preprocessing, number)
        for number, image in enumerate(images[:count])
    ]
    return torch.cat(views)[:count]
