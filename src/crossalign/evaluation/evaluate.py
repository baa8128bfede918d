"""Methods over a dataset's features: accuracies with their statistics, timing and provenance."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import Config
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.evaluation.ranks import Scored, Scorer, collect, score_shards, view_draws
from crossalign.evaluation.statistics import (
    Calibration,
    Comparison,
    calibrate,
    compare,
    paper_pairs,
    per_class_accuracy,
    split_sigma,
    two_level_interval,
    wilson_interval,
)
from crossalign.evaluation.transductive import Transduced, score_together
from crossalign.features.pipeline import ImageFeatures, Progress, ShardWork, image_features, silent, text_features
from crossalign.images.crops import Recipe, ViewRecipe
from crossalign.methods.alignment import Form
from crossalign.methods.registry import Method
from crossalign.methods.scoring import text_bank
from crossalign.store.shards import ShardFolder, Store
from crossalign.text.descriptions import Descriptions
from crossalign.text.prompts import PromptInputs, prompt_inputs

SCHEMA = 1


@dataclass(frozen=True)
class MethodResult:
    """One method's accuracy.

    Attributes:
        method: its name.
        form: of the score.
        ranks: (N, S * R) how many classes scored above the true one, for each picture and run, seed of the crops after
            seed; one run if nothing is drawn.
        seeds: the S seeds of the crops; the evaluation's own, or, if the method looks at crops, fresh ones after it.
        calibration: of the first run's probabilities, if it was asked for.
    """

    method: str
    form: Form
    ranks: np.ndarray[Any, np.dtype[np.int64]]
    seeds: tuple[int, ...] = (0,)
    calibration: Calibration | None = None

    @property
    def right(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each picture was recognised, (N, S, R) by seed and run."""
        return (self.ranks < 1).reshape(len(self.ranks), len(self.seeds), -1)

    def accuracies(self, top: int) -> list[float]:
        """Top-`top` accuracy of each run, in percent."""
        return [100.0 * float(share) for share in (self.ranks < top).mean(axis=0)]

    def to_dict(self) -> dict[str, Any]:
        """Give the row of the results file; `std` is the noise of re-drawing the same encoded views.

        The interval is Wilson's over pictures; with fresh seeds, the two-level bootstrap's over pictures and seeds.
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
        redraw, fresh = split_sigma(by_seed)
        if redraw is not None:
            row |= {"std": redraw, "runs": by_seed[0].tolist()}
        if fresh is not None:
            each = zip(self.seeds, by_seed, strict=True)
            row["seeds"] = [{"seed": seed, "top1": float(of.mean()), "runs": of.tolist()} for seed, of in each]
            row["fresh_std"] = fresh
        if self.calibration is not None:
            row |= _calibration_row(self.calibration)
        return row


@dataclass
class Evaluation:
    """What `evaluate` found, with all that is needed to find it again.

    Attributes:
        dataset, encoder, config, seed: what was measured, and how.
        sources: the descriptions' files.
        results: one a method.
        timing: seconds a stage.
        encoded: how many pictures were encoded just now, once a seed of the crops; the others came from the store.
        kept: how many came from the store.
        comparisons: each method against clip, and the best against the runner-up; see `statistics.paper_pairs`.
        budget: the most prompts a class kept, or None for all of them.
        transductive: one a method that has scores for it, if it was asked for.
    """

    dataset: ImageDataset
    encoder: Encoder
    config: Config
    seed: int
    sources: tuple[str, ...]
    results: list[MethodResult] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    encoded: int = 0
    kept: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    budget: int | None = None
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
            "encoder": {
                "name": encoder.name,
                "width": encoder.width,
                "logit_scale": encoder.logit_scale,
                "fingerprint": encoder.fingerprint,
                "device": str(encoder.device),
                "runtime": encoder.runtime.to_dict() if getattr(encoder, "runtime", None) else None,
            },
            "views": {
                "count": config.views,
                "crop_scale": list(config.crop_scale),
                "sampled": config.sampled_views,
                "runs": config.runs,
            },
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
            "command": " ".join(sys.argv),
        } | transductive


class Executor(Protocol):
    """Where the long work is done if not in this process; see `distributed.Cluster`."""

    def encode(self, work: Sequence[ShardWork], shards: ShardFolder, recipe: Recipe) -> Iterator[int]:
        """Do what `features.encode_shards` does, with an encoder of the same fingerprint and runtime."""
        ...

    def score(self, features: ImageFeatures, scorer: Scorer, labels: Tensor) -> Iterator[list[Scored]]:
        """Score shards, and yield what was found for each, in order."""
        ...


def evaluate(
    dataset: ImageDataset,
    encoder: Encoder,
    config: Config,
    methods: Sequence[Method],
    *,
    descriptions: Sequence[Descriptions] = (),
    store: Store | None = None,
    seed: int = 0,
    form: Form = "released",
    allow_missing: bool = False,
    fresh_seeds: int = 1,
    calibration: bool = False,
    budget: int | None = None,
    transductive: bool = False,
    num_workers: int = 2,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure methods on a dataset; each picture is encoded once, and only if the store does not hold it.

    Args:
        dataset: labelled pictures.
        encoder: any.
        config: views, crop scale, runs, scales, templates, batch size.
        methods: which.
        descriptions: files for the methods that need them; see `prompts.prompt_inputs`.
        store: where features are kept; the default one if None.
        seed: of boxes, draws and random descriptors.
        form: of the score.
        allow_missing: let the prompt stand for a class without descriptions, instead of refusing it.
        fresh_seeds: S, how many seeds of crops are measured: seed, seed + 1, ... Prompts stay those of the first.
        calibration: also measure how far the probabilities of each method's first run can be believed.
        budget: the most prompts that each class keeps, the same for all methods; see `prompts.within_budget`.
        transductive: also judge the pictures all together, by TransCLIP, on the scores of methods with the matcher "mean".
        num_workers: threads that decode and cut, and later score.
        executor: encodes and scores elsewhere; by default this process does.
        progress: shown while pictures are encoded.

    Raises:
        InputError: a picture cannot be read, a class has no description, a method lacks what it needs, no method looks
            at the crops of fresh seeds or has scores for TransCLIP, or there are too few pictures to fit a temperature.
    """
    store = store or Store()
    recipe = ViewRecipe(config.views if any(m.cross for m in methods) else 0, config.crop_scale, seed)
    _check_asked(methods, len(dataset.paths), fresh_seeds, calibration, transductive)
    done = Evaluation(dataset, encoder, config, seed, tuple(d.source for d in descriptions), budget=budget)
    inputs = dataset_prompts(dataset, config, descriptions, seed=seed, allow_missing=allow_missing)
    with _timed(done, "texts"):
        banks = [
            text_bank(method, inputs, lambda texts: text_features(texts, encoder, store), config.text_scale, budget=budget)
            for method in methods
        ]
    labels = torch.tensor(dataset.labels)
    scored: dict[str, list[Scored]] = {method.name: [] for method in methods}
    by_seed: list[ImageFeatures] = []
    for recipe in (replace(recipe, seed=seed + more) for more in range(fresh_seeds)):
        with _timed(done, "views"):
            features = image_features(
                dataset,
                encoder,
                recipe,
                store,
                num_workers=num_workers,
                progress=progress,
                encode=executor.encode if executor else None,
            )
        by_seed.append(features)
        done.encoded += features.encoded
        done.kept += features.images - features.encoded
        # What looks at the whole image alone sees the same under every seed.
        moved = [(m, bank) for m, bank in zip(methods, banks, strict=True) if recipe.seed == seed or m.cross]
        with _timed(done, "scoring"), progress(features.images, "pictures scored") as bar:
            scorer = Scorer(
                moved,
                image_scale=config.image_scale,
                form=form,
                draws=view_draws(config, recipe.seed),
                logit_scale=encoder.logit_scale,
                calibration=calibration and recipe.seed == seed,
            )
            if executor:
                found = collect(executor.score(features, scorer, labels), bar.update)
            else:
                found = score_shards(features, scorer, labels, num_workers=num_workers, update=bar.update)
        for (method, _), of_seed in zip(moved, found, strict=True):
            scored[method.name].append(of_seed)
    done.results = [_result(name, form, seed, found) for name, found in scored.items()]
    pairs = paper_pairs({result.method: float(result.right.mean()) for result in done.results})
    done.comparisons = compare({result.method: result.right for result in done.results}, pairs)
    if transductive:
        means = [(m, bank) for m, bank in zip(methods, banks, strict=True) if m.matcher == "mean"]
        with _timed(done, "transduction"):
            done.transductive = score_together(
                by_seed[0],
                means,
                labels,
                image_scale=config.image_scale,
                form=form,
                logit_scale=encoder.logit_scale,
                num_workers=num_workers,
                progress=progress,
            )
    return done


def _check_asked(methods: Sequence[Method], pictures: int, fresh_seeds: int, calibration: bool, transductive: bool) -> None:
    """Refuse what the methods or the pictures have nothing for."""
    names = ", ".join(method.name for method in methods)
    if fresh_seeds > 1 and not any(method.cross for method in methods):
        raise InputError(f"no method of {names} looks at crops, so fresh seeds change nothing; add wca, or ask for one seed")
    if transductive and not any(method.matcher == "mean" for method in methods):
        raise InputError(f"no method of {names} scores by a mean, as the transductive one needs; add clip, or leave it out")
    if calibration and pictures < 2:
        raise InputError("a temperature is fitted on one half and measured on the other; give two or more pictures")


def _result(name: str, form: Form, seed: int, found: Sequence[Scored]) -> MethodResult:
    ranks = torch.cat([scored.ranks for scored in found], dim=1).numpy()
    seeds, sketch = tuple(range(seed, seed + len(found))), found[0].sketch
    if sketch is None:
        return MethodResult(name, form, ranks, seeds)
    gaps, log_sums = sketch[:, 0].double().numpy(), sketch[:, 1:].double().numpy()
    return MethodResult(name, form, ranks, seeds, calibrate(log_sums, gaps, ranks[:, 0] == 0))


def _calibration_row(calibration: Calibration) -> dict[str, Any]:
    percent = {name: 100 * value for name, value in asdict(calibration).items() if name != "temperature"}
    return {
        "ece": percent.pop("ece"),
        "calibration": {"temperature": calibration.temperature}
        | percent
        | {"fitted_on": "pictures at places 0, 2, 4, ...", "measured_on": "pictures at places 1, 3, 5, ..."},
    }


def dataset_prompts(
    dataset: ImageDataset,
    config: Config,
    descriptions: Sequence[Descriptions] = (),
    *,
    seed: int = 0,
    allow_missing: bool = False,
) -> PromptInputs:
    """Gather what prompts are made of for a dataset's classes; arguments and errors as in `evaluate`."""
    return prompt_inputs(
        dataset.class_names,
        dataset.aliases,
        descriptions,
        templates=config.templates,
        domain=config.domain,
        seed=seed,
        allow_missing=allow_missing,
    )


@contextmanager
def _timed(done: Evaluation, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    done.timing[stage] = round(done.timing.get(stage, 0.0) + time.perf_counter() - start, 3)


def _versions() -> dict[str, str]:
    packages = ("crossalign", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
