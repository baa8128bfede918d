"""How an image tower is computed: by torch or OpenVINO, in float32, bfloat16 or int8.

Torch in float32 is the reference. Every other way is compared with it on views of photos before it is used.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
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

from crossalign.encoders import _openvino, _torch
from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing, ViewRecipe, cut_views, normalised
from crossalign.images.decoding import ImageLike, read_image
from crossalign.store.files import write_whole

log = logging.getLogger("crossalign")

LEAST_COSINE = 0.999
"""Between a view's feature and its reference, below which a runtime is not chosen unless it is asked for by name."""

CALIBRATION_VIEWS = 128

TORCH_HANDICAP = 1.5
"""Torch is taken for the fastest only if it is so by this factor: on a busy machine noise would decide between engines that
are close, and another engine's features are encoded anew."""

ENGINES = ("auto", "torch", "openvino", "torch-compile")
"""What `runtime` may be."""

Way = tuple[str, str]
"""Engine and precision."""

Run = Callable[[Tensor], Tensor]
"""(B, 3, *size) uint8 pixels to (B, E) float32 outputs of a tower on the CPU."""


class Tower(nn.Module):
    """A model with its normalisation before it: (B, 3, *size) pixels to (B, E)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        """Take a model; its weights must have the dtype that it is to be handed pixels in."""
        super().__init__()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self._layout) if channels_last else model
        self.preprocessing = preprocessing
        self._dtype = dtype
        # As buffers they are on the device already: a copy from the CPU's memory in each pass could not be recorded there.
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocessing, name)).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, in float32, and encode."""
        states = normalised(pixels, self.mean, self.std)
        outputs: Tensor = self.model(states.to(self._dtype).contiguous(memory_format=self._layout))
        return outputs

    def in_bfloat16(self, device: torch.device) -> Tower:
        """Copy it with weights in bfloat16, so that they are not cast in each pass, in the layout that suits the device.

        A GPU's tensor cores read channels-last; from a patch embedding, too, tokens then come out in order. On a CPU it
        helps some towers and hinders others.
        """
        channels_last = device.type == "cuda" or self._layout == torch.channels_last
        return Tower(copy.deepcopy(self.model).to(torch.bfloat16), self.preprocessing, channels_last, torch.bfloat16)


@dataclass(frozen=True)
class Runtime:
    """One way to compute a tower.

    Attributes:
        engine: "torch", "openvino" or "torch-compile".
        precision: "f32", "bf16" or "int8".
        run: does it.
        cosine: the lowest between a view's feature and its reference, over the self-check's views.
        milliseconds: a view, in the self-check; None if there was no need of one.
        calibration: digest of the views that int8 was calibrated on and of how, or empty.
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
        # "torch-bf16" was autocast's, which rounds elsewhere.
        return {"torch-f32": "", "torch-bf16": "torch-bf16-weights"}.get(name, name)

    def to_dict(self) -> dict[str, Any]:
        """Give what results say of it."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "self_check": {"lowest_cosine": self.cosine, "ms_per_view": self.milliseconds},
        }


def reference(tower: Tower, device: torch.device) -> Runtime:
    """Compute by torch in float32."""
    return Runtime("torch", "f32", _torch.load(tower, device, "f32"))


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
        engine: one of `ENGINES`; "torch-compile" takes torch's own way where the compiler fails or gains nothing.
        precision: "f32", "bf16", "int8" or None for the fastest that agrees; never int8 unless it is named.
        calibration: pictures to measure the ranges for int8 on; example photos if there are none.
        folder: keeps exported towers and the outcomes of comparisons.

    Raises:
        InputError: what was asked for is not there on this machine.
    """
    ways = _ways(device, engine, precision)
    if ways == [("torch", "f32")]:
        return reference(tower, device)
    views, made_by = None, ""
    if ways[0][1] == "int8":
        views = example_views(tower.preprocessing, CALIBRATION_VIEWS, calibration)
        made_by = hashlib.blake2b(bytes([_openvino.INT8_VERSION]) + views.numpy().tobytes(), digest_size=8).hexdigest()
    check = _Check(tower, finish, device, folder / "towers" / digest, views, made_by)
    outcomes = _outcomes(check, ways)
    agree = {way: outcome for way, outcome in outcomes.items() if outcome[0] >= LEAST_COSINE}
    if not agree and precision in (None, "f32"):
        raise InputError(
            f"runtime {engine} gives other features than torch (lowest cosine {max(outcomes.values())[0]:.4f}); "
            f"its export may be damaged: remove {str(check.folder)!r}, or use runtime torch"
        )
    # Who names a lower precision gets it, even if it does not agree.
    agree = agree or outcomes
    best = min(agree, key=lambda way: agree[way][1] * (TORCH_HANDICAP if way[0] == "torch" else 1))
    return Runtime(*best, check.run(best), *agree[best], check.calibration)


def _outcomes(check: _Check, ways: Sequence[Way]) -> dict[Way, tuple[float, float]]:
    """Compare ways with the reference; one that cannot be used is left out, if another can."""
    outcomes = {}
    for way in ways:
        try:
            outcomes[way] = check.outcome(way)
        except Exception as error:
            # Exporters and compilers fail in many types on an architecture that they do not know.
            failed = f"runtime {way[0]} with precision {way[1]} cannot be used here"
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("%s (%s)", failed, reason)
            if way == ways[-1] and not outcomes:
                raise InputError(f"{failed} ({reason})") from error
    return outcomes


def _ways(device: torch.device, engine: str, precision: str | None) -> list[Way]:
    if engine not in ENGINES:
        raise InputError(f"runtime is {engine!r}, but must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    if precision not in (None, "f32", "bf16", "int8"):
        raise InputError(f"precision is {precision!r}, but must be f32, bf16 or int8")
    on_cpu = device.type == "cpu"
    there = {
        "torch": ["f32", "bf16"],
        "openvino": _openvino.precisions() if on_cpu else [],
        "torch-compile": ["bf16"] if device.type == "cuda" else [],
    }
    # Beside OpenVINO's, which is faster, torch's bfloat16 would only make the first start longer.
    outdone = engine == "auto" and there["openvino"]
    if on_cpu and precision is None and (outdone or not _torch.cpu_has_bf16()):
        there["torch"] = ["f32"]
    # Compiling takes long and must be asked for, and has to gain something.
    engines = {"auto": ["torch", "openvino"], "torch-compile": ["torch", "torch-compile"]}.get(engine, [engine])
    precisions = ["f32", "bf16"] if precision is None else [precision]
    ways = [(e, p) for e, p in product(engines, precisions) if p in there[e]]
    if not ways or (engine != "auto" and engine not in {e for e, _ in ways}):
        raise InputError(
            f"runtime {engine} with precision {precision or 'auto'} is not there on {device.type}; torch has f32 and bf16, "
            f"openvino has {', '.join(there['openvino']) or 'none, since it is not installed or the device is no CPU'}, "
            f"torch-compile has {', '.join(there['torch-compile']) or 'none, since the device is no CUDA GPU'}"
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
                self._runs[way] = _torch.load(self._tower, self._device, precision)
            elif engine == "torch-compile":
                self._runs[way] = _torch.compiled(self._tower, self._device)
            else:
                self._runs[way] = _openvino.load(self._tower, precision, self._export(), self._views)
        return self._runs[way]

    def outcome(self, way: Way) -> tuple[float, float]:
        """Give the lowest cosine to the reference and the milliseconds a view, measured now or before."""
        exported = way[0] == "openvino"
        if way[0] == "torch-compile" or (exported and not _openvino.content(self._export())):
            # Made now, so that what fails does so before it is chosen.
            self.run(way)
        made_of = _openvino.content(self._export()) if exported else "weights" if way == ("torch", "bf16") else ""
        of = [*way, made_of]
        machine = [str(self._device), torch.get_num_threads(), torch.__version__]
        machine += [*_openvino.machine(), *_torch.machine(self._device)]
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
        # So few views would time a GPU's launches, not its work.
        timed = views if self._device.type == "cpu" else views.repeat(_torch.VIEWS_A_PASS // len(views), 1, 1, 1)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            run(timed)
            seconds.append(time.perf_counter() - start)
        cosine = F.cosine_similarity(features, self._reference).min().item()
        return cosine, 1000 * min(seconds) / len(timed)


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
