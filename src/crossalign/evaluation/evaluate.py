"""Methods over a dataset's features: accuracies with their statistics, timing and provenance."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import torch

from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import Config
from crossalign.encoders import Encoder, describe
from crossalign.errors import InputError
from crossalign.evaluation.protocols import Protocol as ViewProtocol
from crossalign.evaluation.protocols import Row, Saw, by_recipe, plan
from crossalign.evaluation.ranks import Scored, Scorer, collect, score_shards
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
from crossalign.images.crops import Recipe
from crossalign.methods.alignment import Form
from crossalign.methods.method import Method, ScoreConfig, TextFeatures
from crossalign.methods.scoring import text_features_of
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
        ranks: (N, S * R) how many classes scored above the true one, for each image and run, seed of the crops after
            seed; one run if nothing is resampled.
        seeds: the S seeds of the crops; the evaluation's own, or, if the method looks at crops, fresh ones after it.
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
        if self.saw is not None:
            row["saw"] = asdict(self.saw)
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
        cached: how many came from the store.
        comparisons: each method against clip, and the best against the runner-up; see `statistics.paper_pairs`.
        budget: the most prompts a class kept, or None for all of them.
        protocol: what the methods saw; see `protocols`.
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
    cached: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    budget: int | None = None
    protocol: ViewProtocol = "shared"
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
        """Give what all methods saw; under the protocol "released" each row says it for itself."""
        config = self.config
        runs = {"sampled": config.sampled_views, "runs": config.runs}
        if self.protocol == "released":
            return runs
        return {"count": config.views, "crop_scale": list(config.crop_scale)} | runs


class Executor(Protocol):
    """Where the long work is done if not in this process; see `distributed.Cluster`."""

    def encode(self, work: Sequence[ShardWork], shards: ShardFolder, recipe: Recipe) -> Iterator[int]:
        """Do what `features.encode_shards` does, with an encoder of the same fingerprint and runtime."""
        ...

    def score(self, features: ImageFeatures, scorer: Scorer) -> Iterator[list[Scored]]:
        """Score shards, and yield what was found for each, in order."""
        ...


def evaluate(
    dataset: ImageDataset,
    encoder: Encoder,
    config: Config,
    methods: Sequence[Method],
    *,
    descriptions: Sequence[Descriptions] = (),
    protocol: ViewProtocol = "shared",
    store: Store | None = None,
    seed: int = 0,
    form: Form = "released",
    allow_missing: bool = False,
    fresh_seeds: int = 1,
    calibration: bool = False,
    budget: int | None = None,
    transductive: Sequence[Method] = (),
    num_workers: int = 2,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure methods on a dataset; each view is encoded once, and only if the store does not hold it.

    Args:
        dataset: labelled images.
        encoder: any.
        config: views, crop scale, runs, scales, templates.
        methods: which; each judges an image on its own.
        descriptions: files for the methods that need them; see `prompts.prompt_inputs`.
        protocol: "shared": all methods see the same views and texts; "released": each sees those of its own program; see
            `protocols`.
        store: where features are cached; the default one if None.
        seed: of boxes, resampled runs and random descriptors.
        form: of the score.
        allow_missing: let the prompt stand for a class without descriptions, instead of refusing it.
        fresh_seeds: S, how many seeds of crops are measured: seed, seed + 1, ... Prompts stay those of the first.
        calibration: also measure how far the probabilities of each method's first run can be believed.
        budget: the most prompts that each class keeps, the same for all methods; see `prompts.within_budget`.
        transductive: methods that judge all images together; their results are a list of their own.
        num_workers: threads that decode and crop, and later score.
        executor: encodes and scores elsewhere; by default this process does.
        progress: shown while images are encoded.

    Raises:
        InputError: an image cannot be read, a class has no description, a method lacks what it needs or is not of the
            protocol, no method looks at the crops of fresh seeds, or there are too few images to fit a temperature.
    """
    store = store or Store()
    rows, together = plan(methods, config, protocol, seed), plan(transductive, config, protocol, seed)
    _check_asked(rows, len(dataset.paths), fresh_seeds, calibration)
    sources = tuple(d.source for d in descriptions)
    done = Evaluation(dataset, encoder, config, seed, sources, budget=budget, protocol=protocol)
    score_config = ScoreConfig(config.image_scale, config.text_scale, form, encoder.logit_scale)
    inputs = dataset_prompts(
        dataset,
        config,
        descriptions,
        seed=seed,
        allow_missing=allow_missing,
        as_published=protocol == "released",
    )

    def texts_of(row: Row) -> TextFeatures:
        encode = partial(text_features, encoder=encoder, store=store)
        return text_features_of(row.method, inputs, encode, score_config, budget=budget)

    with timed(done, "texts"):
        texts = {row.method: texts_of(row) for row in [*rows, *together]}
    encoded: dict[Recipe, ImageFeatures] = {}

    def features_of(recipe: Recipe) -> ImageFeatures:
        if recipe not in encoded:
            with timed(done, "views"):
                encoded[recipe] = image_features(
                    dataset,
                    encoder,
                    recipe,
                    store,
                    num_workers=num_workers,
                    progress=progress,
                    encode=executor.encode if executor else None,
                )
            done.encoded += encoded[recipe].encoded
            done.cached += encoded[recipe].images - encoded[recipe].encoded
        return encoded[recipe]

    labels = torch.tensor(dataset.labels)
    scored: dict[Method, list[Scored]] = {row.method: [] for row in rows}
    for fresh in range(seed, seed + fresh_seeds):
        # What sees the global view alone sees the same under every seed.
        seen = [row.with_seed(fresh) for row in rows if fresh == seed or row.method.uses_views]
        for recipe, group in by_recipe(seen).items():
            features = features_of(recipe)
            scorer = Scorer(
                [(row, texts[row.method]) for row in group],
                score_config,
                fresh,
                labels,
                dataset.indices,
                calibration=calibration and fresh == seed,
            )
            with timed(done, "scoring"), progress(features.images, "images scored") as bar:
                if executor:
                    results = collect(executor.score(features, scorer), bar.update)
                else:
                    results = score_shards(features, scorer, num_workers=num_workers, update=bar.update)
            for row, result in zip(group, results, strict=True):
                scored[row.method].append(result)
    done.results = [_result(row, texts[row.method], form, seed, scored[row.method]) for row in rows]
    pairs = paper_pairs({result.method: float(result.right.mean()) for result in done.results})
    done.comparisons = compare({result.method: result.right for result in done.results}, pairs)
    if together:
        (recipe, *_) = by_recipe([*rows, *together])
        features = features_of(recipe)
        with timed(done, "transduction"):
            done.transductive = score_together(
                features, [(row, texts[row.method]) for row in together], labels, score_config, progress=progress
            )
    return done


def _check_asked(rows: Sequence[Row], images: int, fresh_seeds: int, calibration: bool) -> None:
    """Refuse what the methods or the images have nothing for."""
    if fresh_seeds > 1 and not any(row.method.uses_views for row in rows):
        names = ", ".join(row.method.name for row in rows)
        raise InputError(f"no method of {names} looks at crops, so fresh seeds change nothing; add wca, or ask for one seed")
    if calibration and images < 2:
        raise InputError("a temperature is fitted on one half and measured on the other; give two or more images")


def _result(row: Row, texts: TextFeatures, form: Form, seed: int, scored: Sequence[Scored]) -> MethodResult:
    ranks = torch.cat([of_seed.ranks for of_seed in scored], dim=1).numpy()
    seeds, sketch = tuple(range(seed, seed + len(scored))), scored[0].sketch
    calibration = None
    if sketch is not None:
        gaps, log_sums = sketch[:, 0].double().numpy(), sketch[:, 1:].double().numpy()
        calibration = calibrate(log_sums, gaps, ranks[:, 0] == 0)
    return MethodResult(row.method.name, form, ranks, seeds, calibration, row.saw(texts))


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
    as_published: bool = False,
) -> PromptInputs:
    """Gather what prompts are made of for a dataset's classes; arguments and errors as for `prompt_inputs`."""
    return prompt_inputs(
        dataset.class_names,
        dataset.aliases,
        descriptions,
        templates=config.templates,
        domain=config.domain,
        seed=seed,
        allow_missing=allow_missing,
        as_published=as_published,
        descriptor_names=dataset.descriptor_names,
    )


@contextmanager
def timed(done: Evaluation, stage: str) -> Iterator[None]:
    """Add the time of the block to a stage of the evaluation's timing."""
    start = time.perf_counter()
    yield
    done.timing[stage] = round(done.timing.get(stage, 0.0) + time.perf_counter() - start, 3)


PACKAGES = (
    "crossalign torch torchvision open_clip_torch timm transformers numpy pillow openvino nncf ray".split()  # noqa: SIM905
)
"""Their versions stand in results, as far as they are installed."""


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
