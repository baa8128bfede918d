"""Results of an evaluation: accuracies with their statistics, timing and provenance."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import Config
from crossalign.encoders import Encoder, describe
from crossalign.evaluation.protocols import Protocol, Saw
from crossalign.evaluation.statistics import (
    Calibration,
    Comparison,
    per_class_accuracy,
    split_sigma,
    two_level_interval,
    wilson_interval,
)
from crossalign.evaluation.transductive import Transduced
from crossalign.methods.alignment import Form

SCHEMA = 1
PACKAGES = (
    "crossalign torch torchvision open_clip_torch timm transformers numpy pillow openvino nncf ray".split()  # noqa: SIM905
)
"""Their versions stand in results, as far as they are installed."""


@dataclass(frozen=True)
class MethodResult:
    """One method's accuracy.

    Attributes:
        method: its name.
        form: of the score.
        ranks: (N, S * R) how many classes scored above the true one, for each image and run, the runs of each seed of
            the crops side by side; one run if nothing is resampled.
        seeds: the S seeds of the crops: that of the evaluation, and, if the method sees crops, fresh ones after it.
        calibration: of the first run's probabilities, if it was asked for.
        saw: its views and texts.
    """

    method: str
    form: Form
    ranks: np.ndarray[Any, np.dtype[np.int64]]
    seeds: tuple[int, ...] = (0,)
    calibration: Calibration | None = None
    saw: Saw | None = None

    @property
    def right(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each image was classified correctly: (N, S, R) by seed and run."""
        return (self.ranks < 1).reshape(len(self.ranks), len(self.seeds), -1)

    def accuracies(self, top: int) -> list[float]:
        """Top-`top` accuracy of each run, in percent."""
        return [100.0 * float(share) for share in (self.ranks < top).mean(axis=0)]

    def to_dict(self) -> dict[str, Any]:
        """Give the row of the results file; `std` is that over resampled runs of the same views.

        The interval is Wilson's over images; with fresh seeds, that of the two-level bootstrap over images and seeds.
        """
        runs, right, n = self.accuracies(1), self.right, len(self.ranks)
        top1 = float(np.mean(runs))
        low, high = wilson_interval(top1 / 100 * n, n)
        if len(self.seeds) > 1:
            _, low, high = two_level_interval(right.mean(axis=2))
        row = {
            "method": self.method,
            "top1": top1,
            "top5": float(np.mean(self.accuracies(5))),
            "n": n,
            "ci95": [100 * low, 100 * high],
            "form": self.form,
        }
        by_seed = np.array(runs).reshape(len(self.seeds), -1)
        over_runs, over_seeds = split_sigma(by_seed)
        if over_runs is not None:
            row |= {"std": over_runs, "runs": by_seed[0].tolist()}
        if over_seeds is not None:
            each = zip(self.seeds, by_seed, strict=True)
            row["seeds"] = [{"seed": seed, "top1": float(of.mean()), "runs": of.tolist()} for seed, of in each]
            row["fresh_std"] = over_seeds
        if self.calibration is not None:
            row |= _calibration_row(self.calibration)
        if self.saw is not None:
            row["saw"] = asdict(self.saw)
        return row


@dataclass
class Evaluation:
    """What `evaluate` measured, with all that is needed to measure it again.

    Attributes:
        dataset, encoder, config, seed: what was measured, and how.
        sources: the descriptions' files.
        results: one per method.
        timing: seconds per stage.
        encoded: how many images were encoded just now, counted once per recipe of views.
        cached: how many came from the store.
        comparisons: each method against clip, and the best against the runner-up; see `statistics.paper_pairs`.
        budget: the most prompts per class, or None for all of them.
        protocol: what the methods saw; see `protocols`.
        transductive: one per transductive method.
    """

    dataset: ImageDataset
    encoder: Encoder
    config: Config
    seed: int
    sources: tuple[str, ...]
    results: list[MethodResult] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    encoded: int = 0
    cached: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    budget: int | None = None
    protocol: Protocol = "shared"
    transductive: list[Transduced] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give the results file's content."""
        dataset, encoder, config = self.dataset, self.encoder, self.config
        labels = np.array(dataset.labels)
        transductive = {"transductive": [asdict(row) for row in self.transductive]} if self.transductive else {}
        return {
            "schema": SCHEMA,
            "dataset": {
                "name": dataset.name,
                "root": str(dataset.root),
                "images": len(dataset.paths),
                "classes": len(dataset.class_names),
                "fingerprint": dataset.fingerprint,
            },
            "encoder": describe(encoder),
            "protocol": self.protocol,
            "views": self._views(),
            "budget": None if self.budget is None else {"views": config.views, "sentences": self.budget},
            "scales": {"image": config.image_scale, "text": config.text_scale},
            "descriptions": list(self.sources),
            "seed": self.seed,
            "results": [
                result.to_dict() | {"per_class": 100 * per_class_accuracy(result.right.mean(axis=(1, 2)), labels)}
                for result in self.results
            ],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "timing": self.timing,
            "versions": _versions(),
            "command": shlex.join(sys.argv),
        } | transductive

    def _views(self) -> dict[str, Any]:
        """Give what all methods saw; under the protocol "released" each row has its own entry."""
        config = self.config
        runs = {"sampled": config.sampled_views, "runs": config.runs}
        if self.protocol == "released":
            return runs
        return {"count": config.views, "crop_scale": list(config.crop_scale)} | runs


def _calibration_row(calibration: Calibration) -> dict[str, Any]:
    percent = {name: 100 * value for name, value in asdict(calibration).items() if name != "temperature"}
    return {
        "ece": percent.pop("ece"),
        "calibration": {"temperature": calibration.temperature}
        | percent
        | {"fitted_on": "images with even index", "measured_on": "images with odd index"},
    }


@contextmanager
def timed(done: Evaluation, stage: str) -> Iterator[None]:
    """Add the time of the block to a stage of the evaluation's timing."""
    start = time.perf_counter()
    yield
    done.timing[stage] = round(done.timing.get(stage, 0.0) + time.perf_counter() - start, 3)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
