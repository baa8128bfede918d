"""Evaluate methods on a dataset: texts and views are encoded, then scored, then scored together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch

from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import Config
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.evaluation.protocols import Protocol as ViewProtocol
from crossalign.evaluation.protocols import Row, by_recipe, plan
from crossalign.evaluation.ranks import Scored, Scorer, collect, score_shards
from crossalign.evaluation.results import Evaluation, MethodResult, timed
from crossalign.evaluation.statistics import calibrate, compare, paper_pairs
from crossalign.evaluation.transductive import score_together
from crossalign.features.pipeline import ImageFeatures, Progress, ShardWork, image_features, silent, text_features
from crossalign.images.crops import Recipe
from crossalign.methods.alignment import Form
from crossalign.methods.method import Method, ScoreConfig, TextFeatures
from crossalign.methods.scoring import text_features_of
from crossalign.store.shards import ShardFolder, Store
from crossalign.text.descriptions import Descriptions
from crossalign.text.prompts import PromptInputs, prompt_inputs


class Executor(Protocol):
    """Where the long work is done if not in this process; see `distributed.Cluster`."""

    def encode(self, work: Sequence[ShardWork], shards: ShardFolder, recipe: Recipe) -> Iterator[int]:
        """Do what `features.pipeline.encode_shards` does, with an encoder of the same fingerprint and runtime."""
        ...

    def score(self, features: ImageFeatures, scorer: Scorer) -> Iterator[list[Scored]]:
        """Score shards, and yield the results of each, in order."""
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
        methods: methods that classify each image on its own.
        descriptions: files for the methods that need them; see `prompts.prompt_inputs`.
        protocol: "shared": all methods see the same views and texts; "released": each sees those of its own program; see
            `protocols`.
        store: where features are cached; the default one if None.
        seed: of boxes, resampled runs and random descriptors.
        form: of the score.
        allow_missing: use the plain prompt for a class without descriptions, instead of refusing it.
        fresh_seeds: S, how many seeds of crops are measured: seed, seed + 1, ... Prompts stay those of the first.
        calibration: also measure the calibration of the probabilities of each method's first run.
        budget: the most prompts per class, the same for all methods; see `prompts.within_budget`.
        transductive: methods that classify all images together; their results are a list of their own.
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
    published = protocol == "released"
    inputs = dataset_prompts(dataset, config, descriptions, seed=seed, allow_missing=allow_missing, as_published=published)
    encode_texts = partial(text_features, encoder=encoder, store=store)
    with timed(done, "texts"):
        texts = {
            row.method: text_features_of(row.method, inputs, encode_texts, score_config, budget=budget)
            for row in [*rows, *together]
        }
    seeds = range(seed, seed + fresh_seeds)
    scorers = _scorers(rows, texts, score_config, dataset, seeds, calibration)
    (first_recipe, *_) = by_recipe([*rows, *together])
    recipes = [first_recipe, *(recipe for recipe, _ in scorers)]
    with timed(done, "views"):
        features = _encode(dataset, encoder, recipes, store, executor, num_workers, progress)
    with timed(done, "scoring"):
        scored = _score(scorers, features, executor, num_workers, progress)
    done.results = [_result(row, texts[row.method], form, seed, scored[row.method]) for row in rows]
    pairs = paper_pairs({result.method: float(result.right.mean()) for result in done.results})
    done.comparisons = compare({result.method: result.right for result in done.results}, pairs)
    if together:
        labels, with_texts = torch.tensor(dataset.labels), [(row, texts[row.method]) for row in together]
        with timed(done, "transduction"):
            done.transductive = score_together(features[first_recipe], with_texts, labels, score_config, progress=progress)
    # Only now: a damaged shard is noticed, and encoded again, when it is scored.
    done.encoded = sum(of_recipe.encoded for of_recipe in features.values())
    done.cached = sum(of_recipe.images for of_recipe in features.values()) - done.encoded
    return done


def _encode(
    dataset: ImageDataset,
    encoder: Encoder,
    recipes: Sequence[Recipe],
    store: Store,
    executor: Executor | None,
    num_workers: int,
    progress: Progress,
) -> dict[Recipe, ImageFeatures]:
    """Encode the views of each recipe once."""
    elsewhere = executor.encode if executor else None
    return {
        recipe: image_features(dataset, encoder, recipe, store, num_workers=num_workers, progress=progress, encode=elsewhere)
        for recipe in dict.fromkeys(recipes)
    }


def _scorers(
    rows: Sequence[Row],
    texts: Mapping[Method, TextFeatures],
    config: ScoreConfig,
    dataset: ImageDataset,
    seeds: Sequence[int],
    calibration: bool,
) -> list[tuple[Recipe, Scorer]]:
    """Group the methods by seed and views: for each group its views, and what scores it."""
    scorers = []
    for seed in seeds:
        is_first = seed == seeds[0]
        # Methods that see only the global view see the same under every seed.
        seen = [row.with_seed(seed) for row in rows if is_first or row.method.uses_views]
        for recipe, group in by_recipe(seen).items():
            with_texts, labels = [(row, texts[row.method]) for row in group], torch.tensor(dataset.labels)
            scorer = Scorer(with_texts, config, seed, labels, dataset.indices, calibration=calibration and is_first)
            scorers.append((recipe, scorer))
    return scorers


def _score(
    scorers: Sequence[tuple[Recipe, Scorer]],
    features: Mapping[Recipe, ImageFeatures],
    executor: Executor | None,
    num_workers: int,
    progress: Progress,
) -> dict[Method, list[Scored]]:
    """Score all groups: for each method one result per seed."""
    scored: dict[Method, list[Scored]] = {}
    for recipe, scorer in scorers:
        with progress(features[recipe].images, "images scored") as bar:
            if executor:
                results = collect(executor.score(features[recipe], scorer), bar.update)
            else:
                results = score_shards(features[recipe], scorer, num_workers=num_workers, update=bar.update)
        for (row, _), result in zip(scorer.rows, results, strict=True):
            scored.setdefault(row.method, []).append(result)
    return scored


def _check_asked(rows: Sequence[Row], images: int, fresh_seeds: int, calibration: bool) -> None:
    """Refuse fresh seeds and calibration where they mean nothing."""
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
