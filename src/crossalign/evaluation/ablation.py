"""Which part of a method makes its accuracy: the same encoded views under every setting."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from crossalign.datasets import ImageDataset
from crossalign.datasets.configs import Config
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.evaluation.evaluate import Evaluation, dataset_prompts
from crossalign.evaluation.protocols import Row
from crossalign.evaluation.ranks import Scorer, score_shards
from crossalign.evaluation.statistics import Comparison, compare, wilson_interval
from crossalign.features.pipeline import Progress, image_features, silent, text_features
from crossalign.images.crops import ViewRecipe
from crossalign.methods.alignment import FORMS, Form
from crossalign.methods.method import Method, ScoreConfig, WeightedMean
from crossalign.methods.registry import METHODS, pick_method, uniform_weights, with_prompts
from crossalign.methods.scoring import text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions import Descriptions
from crossalign.text.prompts import CONTROLS

AXES = ("weights", "views", "crop-scale", "form", "prompts")
COUNTS = (1, 2, 5, 10, 20, 40, 60, 100)
"""Numbers of views that are tried, as far as so many are encoded."""
WHOLE = "cupl"
"""Stands beside the method in the block of prompts: the same sentences, but the whole image alone."""

CropScale = tuple[float, float]
Right = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Setting:
    """A method with some of its parts taken out.

    Attributes:
        method: its name.
        view_weights, text_weights: whether it uses its own weights, or uniform ones.
        views: how many, each used once; 0 for a method that sees the whole image alone.
        crop_scale: of the views.
        form: of the score.
        prompts: key of `prompts.SOURCES`.
    """

    method: str
    view_weights: bool
    text_weights: bool
    views: int
    crop_scale: CropScale
    form: Form
    prompts: str

    @property
    def name(self) -> str:
        """All of it in one line; no two settings share it."""
        low, high = self.crop_scale
        weights = ("off", "on")
        return (
            f"{self.method}: view weights {weights[self.view_weights]}, text weights {weights[self.text_weights]}, "
            f"{self.views} views of {low:g} to {high:g}, form {self.form}, prompts {self.prompts}"
        )

    def of_method(self) -> Method:
        """Make the method that it says."""
        base = pick_method(self.method)
        if base.resampled and not self.view_weights:
            base = replace(base, score=WeightedMean(uniform_weights))
        if not self.text_weights:
            base = replace(base, text_weights="uniform")
        return base if self.prompts == base.prompts else with_prompts(base, self.prompts)


@dataclass(frozen=True)
class Cell:
    """What a setting reached.

    Attributes:
        setting: the setting.
        right: (N,) whether each picture was recognised.
        comparison: with the full method, as the second; None for the full method itself.
    """

    setting: Setting
    right: Right
    comparison: Comparison | None = None

    @property
    def top1(self) -> float:
        """In percent."""
        return 100.0 * float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %, in percent."""
        low, high = wilson_interval(float(self.right.sum()), len(self.right))
        return 100 * low, 100 * high

    def to_dict(self) -> dict[str, Any]:
        """Give the row of the results file."""
        row = asdict(self.setting) | {"top1": self.top1, "ci95": list(self.interval), "minus_full": None}
        if self.comparison:
            row["minus_full"] = {
                key: value for key, value in asdict(self.comparison).items() if key not in ("first", "second")
            }
        return row


@dataclass
class Ablation:
    """What `ablate` found.

    Attributes:
        done: dataset, encoder, config, seed and timing, as of an evaluation.
        full: the whole method, which every cell is compared with.
        cells: the grid, the full method among it.
        controls: the method, and `WHOLE`, with the prompts of each control and with their own.
    """

    done: Evaluation
    full: Setting
    cells: list[Cell] = field(default_factory=list)
    controls: list[Cell] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give the results file's content."""
        about = self.done.to_dict()
        kept = ("dataset", "encoder", "scales", "descriptions", "seed", "timing", "versions", "command")
        return {"ablation_schema": 1, **{key: about[key] for key in kept}} | {
            "full": asdict(self.full),
            "draws": "each view once",
            "cells": [cell.to_dict() for cell in self.cells],
            "controls": [cell.to_dict() for cell in self.controls],
        }


def plan(
    method: Method, axes: Sequence[str], *, most: int, crop_scales: Sequence[CropScale], form: Form
) -> tuple[Setting, list[Setting], list[Setting]]:
    """Lay out the grid.

    Args:
        method: the full one.
        axes: which of `AXES` are varied; the others stay as in the full method.
        most: M, the number of views of the full method.
        crop_scales: the full method's first.
        form: the full method's.

    Returns:
        The full method, the grid, and the block of control prompts.

    Raises:
        InputError: an axis is unknown, or the method looks at no views.
    """
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise InputError(f"axis {unknown[0]!r} is unknown; --axes takes {', '.join(AXES)}")
    if not method.uses_views:
        raise InputError(f"method {method.name} looks at no views, so there is nothing to take out; name wca or its like")
    score = method.score
    weights = isinstance(score, WeightedMean) and score.view_weights is not uniform_weights
    full = Setting(method.name, weights, method.text_weights != "uniform", most, crop_scales[0], form, method.prompts)
    counts = [count for count in COUNTS if count < most] + [most] if "views" in axes else [most]
    scales = [*dict.fromkeys(crop_scales)] if "crop-scale" in axes else [full.crop_scale]
    forms = [form, *(other for other in FORMS if other != form)] if "form" in axes and method.resampled else [form]
    switches = [(full.view_weights, full.text_weights)]
    if "weights" in axes:
        of_views, of_texts = ([True, False] if on else [False] for on in switches[0])
        switches = list(product(of_views, of_texts))
    grid = [
        replace(full, view_weights=weigh_views, text_weights=weigh_texts, views=count, crop_scale=scale, form=of_score)
        for scale, of_score, (weigh_views, weigh_texts), count in product(scales, forms, switches, counts)
    ]
    if "prompts" not in axes:
        return full, grid, []
    whole = replace(full, method=WHOLE, view_weights=False, text_weights=False, views=0, prompts=METHODS[WHOLE].prompts)
    return (
        full,
        grid,
        [replace(of, prompts=source) for of in (full, whole) for source in dict.fromkeys((of.prompts, *CONTROLS))],
    )


def ablate(
    dataset: ImageDataset,
    encoder: Encoder,
    config: Config,
    method: Method,
    *,
    axes: Sequence[str] = AXES,
    crop_scales: Sequence[CropScale] = (),
    descriptions: Sequence[Descriptions] = (),
    store: Store | None = None,
    seed: int = 0,
    form: Form = "released",
    allow_missing: bool = False,
    num_workers: int = 2,
    progress: Progress = silent,
) -> Ablation:
    """Measure a method with its parts taken out, one by one and together.

    Each view is used once: no run re-draws them, so that settings differ in nothing but what they say. n views are the
    first n of the longest list. The views of each crop scale are encoded once.

    Args:
        dataset: labelled pictures.
        encoder: any.
        config: views, crop scale, softmax scales, templates, batch size.
        method: the full one.
        axes: see `plan`.
        crop_scales: the full method's first; by default the config's, then the paper's where it differs.
        descriptions: files; see `prompts.prompt_inputs`.
        store: where features are kept; the default one if None.
        seed: of boxes and control prompts.
        form: of the full method's score.
        allow_missing: let the prompt stand for a class without descriptions, instead of refusing it.
        num_workers: threads that decode and cut, and later score.
        progress: shown while pictures are encoded and scored.

    Raises:
        InputError: a picture cannot be read, a class has no description, an axis is unknown, or the method has no views.
    """
    store = store or Store()
    crop_scales = list(crop_scales) or list(dict.fromkeys([config.crop_scale, config.crop_scale_written]))
    full, grid, controls = plan(method, axes, most=config.views, crop_scales=crop_scales, form=form)
    settings = list(dict.fromkeys([full, *grid, *controls]))
    inputs = dataset_prompts(dataset, config, descriptions, seed=seed, allow_missing=allow_missing)
    done = Evaluation(dataset, encoder, config, seed, tuple(d.source for d in descriptions))
    score_config = ScoreConfig(config.image_scale, config.text_scale, form, encoder.logit_scale)
    with _timed(done, "texts"):
        texts = {
            setting.of_method(): text_features_of(
                setting.of_method(), inputs, partial(text_features, encoder=encoder, store=store), score_config
            )
            for setting in settings
        }
    right: dict[Setting, Right] = {}
    for scale in dict.fromkeys(setting.crop_scale for setting in settings):
        recipe = ViewRecipe(config.views, scale, seed)
        with _timed(done, "views"):
            features = image_features(dataset, encoder, recipe, store, num_workers=num_workers, progress=progress)
        done.encoded += features.encoded
        done.cached += features.images - features.encoded
        of_scale = [setting for setting in settings if setting.crop_scale == scale]
        forms = dict.fromkeys(setting.form for setting in of_scale)
        with _timed(done, "scoring"), progress(features.images * len(forms), "images scored") as bar:
            for each in forms:
                alike = [setting for setting in of_scale if setting.form == each]
                # Without resampled runs each view is used once; n views are the first of the longest list.
                rows = [Row(setting.of_method(), replace(recipe, count=setting.views)) for setting in alike]
                scorer = Scorer(
                    [(row, texts[row.method]) for row in rows],
                    replace(score_config, form=each),
                    seed,
                    torch.tensor(dataset.labels),
                    dataset.indices,
                )
                scored = score_shards(features, scorer, num_workers=num_workers, update=bar.update)
                right |= {s: (of.ranks[:, 0] < 1).numpy() for s, of in zip(alike, scored, strict=True)}
    found = _compared(full, right)
    cells = {setting: Cell(setting, hits, found.get(setting)) for setting, hits in right.items()}
    return Ablation(done, full, [cells[setting] for setting in grid], [cells[setting] for setting in controls])


def _compared(full: Setting, right: Mapping[Setting, Right]) -> dict[Setting, Comparison]:
    """Compare every other setting with the full method; Holm's correction is over all of them."""
    by_name = {setting.name: setting for setting in right}
    pairs = [(full.name, name) for name in by_name if name != full.name]
    comparisons = compare({setting.name: hits[:, None, None] for setting, hits in right.items()}, pairs)
    return {by_name[comparison.second]: comparison for comparison in comparisons}


@contextmanager
def _timed(done: Evaluation, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    done.timing[stage] = round(done.timing.get(stage, 0.0) + time.perf_counter() - start, 3)
