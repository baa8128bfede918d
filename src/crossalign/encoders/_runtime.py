"""How an image tower is computed: by torch or OpenVINO, in float32, bfloat16 or int8.

Torch in float32 is the reference. Every other way is compared with it on views of photos before it is used.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossalign.encoders import _openvino
from crossalign.errors import InputError
from crossalign.files import write_whole
from crossalign.reading import ImageLike, read_image
from crossalign.views import Preprocessing, ViewRecipe, cut_views

LEAST_COSINE = 0.999
"""Between a view's feature and its reference, below which a runtime is not chosen unless it is asked for by name."""

CALIBRATION_VIEWS = 128

TORCH_HANDICAP = 1.5
"""Torch is taken for the fastest only if it is so by this factor: on a busy machine noise would decide between engines that
are close, and another engine's features are encoded anew."""

Way = tuple[str, str]
"""Engine and precision."""

Run = Callable[[Tensor], Tensor]
"""(B, 3, *size) uint8 pixels to (B, E) float32 outputs of a tower on the CPU."""


class Tower(nn.Module):
    """A model with its normalisation before it: (B, 3, *size) pixels to (B, E)."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, channels_last: bool = False):
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise and encode."""
        outputs: Tensor = self.model(self.preprocessing.normalise(pixels).contiguous(memory_format=self._layout))
        return outputs


@dataclass(frozen=True)
class Runtime:
    """One way to compute a tower.

    Attributes:
        engine: "torch" or "openvino".
        precision: "f32", "bf16" or "int8".
        run: does it.
        cosine: the lowest between a view's feature and its reference, over the self-check's views.
        milliseconds: a view, in the self-check; None if there was no need of one.
        calibration: digest of the views that int8 was calibrated on, or empty.
    """

    engine: str
    precision: str
    run: Run = field(repr=False, compare=False)
    cosine: float = 1.0
    milliseconds: float | None = None
    calibration: str = ""

    @property
    def key(self) -> str:
        """What features that it gave are kept under; empty for the reference."""
        name = "-".join(filter(None, (self.engine, self.precision, self.calibration)))
        return "" if name == "torch-f32" else name

    def to_dict(self) -> dict[str, Any]:
        """Give what results say of it."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "self_check": {"lowest_cosine": self.cosine, "ms_per_view": self.milliseconds},
        }


def reference(tower: Tower, device: torch.device) -> Runtime:
    """Compute by torch in float32."""
    return Runtime("torch", "f32", _torch(tower, device, torch.float32))


def pick_runtime(
    tower: Tower,
    finish: Callable[[Tensor], Tensor],
    digest: str,
    device: torch.device,
    *,
    engine: str,
    precision: str | None,
    calibration: Sequence[ImageLike],
    folder: Path,
) -> Runtime:
    """Take the fastest way that agrees with the reference, or the one that was asked for.

    Args:
        tower: what to compute.
        finish: the tower's outputs (B, E) to normalised features (B, D), for the comparison.
        digest: of the tower's weights.
        device: where torch computes; OpenVINO computes on the CPU alone.
        engine: "torch", "openvino" or "auto".
        precision: "f32", "bf16", "int8" or None for the fastest that agrees; never int8 unless it is named.
        calibration: pictures to measure the ranges for int8 on; example photos if there are none.
        folder: keeps exported towers and the outcomes of comparisons.

    Raises:
        InputError: what was asked for is not there on this machine.
    """
    ways = _ways(device, engine, precision)
    if ways == [("torch", "f32")]:
        return reference(tower, device)
    views = digest_of_views = None
    if ways[0][1] == "int8":
        views = example_views(tower.preprocessing, CALIBRATION_VIEWS, calibration)
        digest_of_views = hashlib.blake2b(views.numpy().tobytes(), digest_size=8).hexdigest()
    check = _Check(tower, finish, device, folder / "towers" / digest, views, digest_of_views or "")
    outcomes = {}
    for way in ways:
        try:
            outcomes[way] = check.outcome(way)
        except Exception as error:
            # Exporters fail in many types on an architecture that they do not know; other ways are still there.
            if len(ways) == 1:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise InputError(f"runtime {way[0]} with precision {way[1]} cannot be used here ({reason})") from error
    agree = {way: outcome for way, outcome in outcomes.items() if outcome[0] >= LEAST_COSINE}
    if len(ways) == 1:
        ((engine, precision),) = ways
        if precision == "f32" and not agree:
            raise InputError(
                f"runtime {engine} gives other features than torch (lowest cosine {outcomes[ways[0]][0]:.4f}); "
                f"its export may be damaged: remove {str(check.folder)!r}, or use runtime torch"
            )
        agree = outcomes
    best = min(agree, key=lambda way: agree[way][1] * (TORCH_HANDICAP if way[0] == "torch" else 1))
    return Runtime(*best, check.run(best), *agree[best], check.calibration)


def _ways(device: torch.device, engine: str, precision: str | None) -> list[Way]:
    if engine not in ("auto", "torch", "openvino"):
        raise InputError(f"runtime is {engine!r}, but must be auto, torch or openvino")
    if precision not in (None, "f32", "bf16", "int8"):
        raise InputError(f"precision is {precision!r}, but must be f32, bf16 or int8")
    there = {
        "torch": ["f32", "bf16"],
        "openvino": _openvino.precisions() if device.type == "cpu" else [],
    }
    if device.type == "cpu" and precision is None:
        # Torch's bfloat16 is left to who names it: slower than float32 for a ViT in a trial, and OpenVINO's was faster.
        there["torch"] = ["f32"]
    engines = list(there) if engine == "auto" else [engine]
    precisions = ["f32", "bf16"] if precision is None else [precision]
    ways = [(e, p) for e, p in product(engines, precisions) if p in there[e]]
    if not ways:
        raise InputError(
            f"runtime {engine} with precision {precision or 'auto'} is not there on {device.type}; torch has f32 and bf16, "
            f"openvino has {', '.join(there['openvino']) or 'none, since it is not installed or the device is no CPU'}"
            f"{_openvino.hint(precision)}"
        )
    return ways


class _Check:
    """Compares ways with the reference, once a machine."""

    def __init__(
        self,
        tower: Tower,
        finish: Callable[[Tensor], Tensor],
        device: torch.device,
        folder: Path,
        views: Tensor | None,
        calibration: str,
    ):
        self._tower, self._finish, self._device, self._views = tower, finish, device, views
        self.folder, self.calibration = folder, calibration
        self._reference: Tensor | None = None
        self._runs: dict[Way, Run] = {}

    def run(self, way: Way) -> Run:
        """Make a way ready to compute."""
        if way not in self._runs:
            engine, precision = way
            if engine == "torch":
                dtype = torch.float32 if precision == "f32" else torch.bfloat16
                self._runs[way] = _torch(self._tower, self._device, dtype)
            else:
                self._runs[way] = _openvino.load(self._tower, precision, self._export(), self._views)
        return self._runs[way]

    def outcome(self, way: Way) -> tuple[float, float]:
        """Give the lowest cosine to the reference and the milliseconds a view, measured now or before."""
        if way[0] == "openvino" and not _openvino.content(self._export()):
            self.run(way)
        of = [*way, _openvino.content(self._export()) if way[0] == "openvino" else ""]
        machine = [str(self._device), torch.get_num_threads(), torch.__version__, *_openvino.machine()]
        digest = hashlib.blake2b(json.dumps([of, machine]).encode(), digest_size=8).hexdigest()
        file = self.folder / f"check-{digest}.json"
        try:
            kept = json.loads(file.read_text())
            return float(kept["lowest_cosine"]), float(kept["ms_per_view"])
        except (OSError, ValueError, LookupError, TypeError):
            cosine, milliseconds = self._measure(self.run(way))
        content = {"way": of, "machine": machine, "lowest_cosine": cosine, "ms_per_view": milliseconds}
        # A folder that cannot be written costs the next process a second look, no more.
        with suppress(InputError):
            write_whole(file, json.dumps(content, indent=2).encode())
        return cosine, milliseconds

    def _export(self) -> Path:
        return _openvino.file_of(self.folder, self.calibration)

    def _measure(self, run: Run) -> tuple[float, float]:
        views = example_views(self._tower.preprocessing, 16)
        if self._reference is None:
            self._reference = self._finish(reference(self._tower, self._device).run(views))
        features = self._finish(run(views))
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            run(views)
            seconds.append(time.perf_counter() - start)
        cosine = F.cosine_similarity(features, self._reference).min().item()
        return cosine, 1000 * min(seconds) / len(views)


def _torch(tower: Tower, device: torch.device, dtype: torch.dtype) -> Run:
    @torch.inference_mode()
    def run(pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs: Tensor = tower(pixels.to(device, non_blocking=True))
        return outputs.float().cpu()

    return run


EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
"""Photos inside scikit-image."""


def example_views(preprocessing: Preprocessing, count: int, pictures: Sequence[ImageLike] = ()) -> Tensor:
    """Cut views of pictures, or of example photos if there are none: (count, 3, *size) uint8."""
    photos = resources.files("skimage") / "data"
    pictures = pictures or [str(photos / name) for name in EXAMPLES]
    each = -(-count // len(pictures)) - 1
    cut = [
        cut_views(read_image(picture), ViewRecipe(each, (0.1, 0.9), 0), preprocessing, number)
        for number, picture in enumerate(pictures[:count])
    ]
    return torch.cat(cut)[:count]
