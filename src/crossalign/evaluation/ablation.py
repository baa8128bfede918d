"""Ablation: the accuracy of a method without some of its parts, on the same encoded views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from crossalign.evaluation.evaluate import dataset_prompts
from crossalign.evaluation.protocols import Row
from crossalign.evaluation.ranks import Scorer, score_shards
from crossalign.evaluation.results import Evaluation, timed
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
"""Numbers of views to measure, up to the number that is encoded."""
GLOBAL_VIEW_METHOD = "cupl"
"""Measured beside the method in the block of control prompts: the same sentences, but the global view alone."""

CropScale = tuple[float, float]
Right = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Setting:
    """A method, perhaps without some of its parts.

    Attributes:
        method: name of the method.
        view_weights, text_weights: whether the method uses its own weights; otherwise they are uniform.
        views: number of local views, each used once; 0 for a method that sees the global view alone.
        crop_scale: crop scale of the views.
        form: form of the score.
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
        """The setting in one line; different settings have different names."""
        low, high = self.crop_scale
        switch = ("off", "on")
        return (
            f"{self.method}: view weights {switch[self.view_weights]}, text weights {switch[self.text_weights]}, "
            f"{self.views} views of {low:g} to {high:g}, form {self.form}, prompts {self.prompts}"
        )

    def to_method(self) -> Method:
        """Build the method with this setting."""
        base = pick_method(self.method)
        if base.resampled and not self.view_weights:
            base = replace(base, score=WeightedMean(uniform_weights))
        if not self.text_weights:
            base = replace(base, text_weights="uniform")
        return base if self.prompts == base.prompts else with_prompts(base, self.prompts)


@dataclass(frozen=True)
class Cell:
    """The result of one setting.

    Attributes:
        setting: the setting.
        right: (N,) bool, whether it is right on each image.
        comparison: the full method compared with this setting; None for the full method itself.
    """

    setting: Setting
    right: Right
    comparison: Comparison | None = None

    @property
    def top1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the top-1 accuracy, in percent."""
        low, high = wilson_interval(float(self.right.sum()), len(self.right))
        return 100 * low, 100 * high

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the results file."""
        row = asdict(self.setting) | {"top1": self.top1, "ci95": list(self.interval), "minus_full": None}
        if self.comparison:
            row["minus_full"] = {
                key: value for key, value in asdict(self.comparison).items() if key not in ("first", "second")
            }
        return row


@dataclass
class Ablation:
    """The results of `ablate`.

    Attributes:
        evaluation: dataset, encoder, config, seed and timing.
        full: the full method, with which every cell is compared.
        cells: the grid, including the full method.
        controls: the full method and `GLOBAL_VIEW_METHOD`, each with its own prompts and with all control prompts.
    """

    evaluation: Evaluation
    full: Setting
    cells: list[Cell] = field(default_factory=list)
    controls: list[Cell] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the results file."""
        evaluation = self.evaluation.to_dict()
        shared = ("dataset", "encoder", "scales", "descriptions", "seed", "timing", "versions", "command")
        return {"ablation_schema": 1, **{key: evaluation[key] for key in shared}} | {
            "full": asdict(self.full),
            "runs": "each view once",
            "cells": [cell.to_dict() for cell in self.cells],
            "controls": [cell.to_dict() for cell in self.controls],
        }


def plan(
    method: Method, axes: Sequence[str], *, most: int, crop_scales: Sequence[CropScale], form: Form
) -> tuple[Setting, list[Setting], list[Setting]]:
    """List the settings of an ablation.

    Args:
        method: the full method.
        axes: those of `AXES` that vary; along the others, all settings are as the full method.
        most: M, the number of views of the full method.
        crop_scales: the crop scale of the full method, followed by others.
        form: form of the full method's score.

    Returns:
        The full method, the grid, and the block of control prompts.

    Raises:
        InputError: an axis is unknown, or the method uses no local views.
    """
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise InputError(f"axis {unknown[0]!r} is unknown; the axes are {', '.join(AXES)}")
    if not method.uses_views:
        raise InputError(
            f"method {method.name} uses no local views, so it has no parts to remove; choose another, such as wca"
        )
    score = method.score
    weights = isinstance(score, WeightedMean) and score.view_weights is not uniform_weights
    full = Setting(method.name, weights, method.text_weights != "uniform", most, crop_scales[0], form, method.prompts)
    counts = [count for count in COUNTS if count < most] + [most] if "views" in axes else [most]
    scales = [*dict.fromkeys(crop_scales)] if "crop-scale" in axes else [full.crop_scale]
    forms = [form, *(other for other in FORMS if other != form)] if "form" in axes and method.resampled else [form]
    switches = [(full.view_weights, full.text_weights)]
    if "weights" in axes:
        view_switch, text_switch = ([True, False] if on else [False] for on in switches[0])
        switches = list(product(view_switch, text_switch))
    grid = [
        replace(full, view_weights=view_on, text_weights=text_on, views=count, crop_scale=scale, form=score_form)
        for scale, score_form, (view_on, text_on), count in product(scales, forms, switches, counts)
    ]
    if "prompts" not in axes:
        return full, grid, []
    global_view = replace(
        full,
        method=GLOBAL_VIEW_METHOD,
        view_weights=False,
        text_weights=False,
        views=0,
        prompts=METHODS[GLOBAL_VIEW_METHOD].prompts,
    )
    controls = [
        replace(setting, prompts=prompts)
        for setting in (full, global_view)
        for prompts in dict.fromkeys((setting.prompts, *CONTROLS))
    ]
    return full, grid, controls


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
    """Measure a method without its parts, one by one and together.

    Each view is used once, without resampled runs, so that two settings differ only in what their names say. A setting with
    n views uses the first n of all M. The views of each crop scale are encoded once.

    Args:
        dataset: labelled images.
        encoder: any encoder.
        config: number of views, crop scale, softmax scales and templates.
        method: the full method.
        axes: see `plan`.
        crop_scales: the crop scale of the full method, followed by others; by default the config's, then the paper's if it
            differs.
        descriptions: description files; see `prompts.prompt_inputs`.
        store: where features are cached; the default store if None.
        seed: seed of the boxes and of the control prompts.
        form: form of the full method's score.
        allow_missing: use the plain prompt for classes without descriptions, instead of raising an error.
        num_workers: threads that decode and crop, and later score.
        progress: shown while images are encoded and scored.

    Raises:
        InputError: an image cannot be read, a class has no description, an axis is unknown, or the method uses no local
            views.
    """
    store = store or Store()
    crop_scales = list(crop_scales) or list(dict.fromkeys([config.crop_scale, config.crop_scale_written]))
    full, grid, controls = plan(method, axes, most=config.views, crop_scales=crop_scales, form=form)
    settings = list(dict.fromkeys([full, *grid, *controls]))
    inputs = dataset_prompts(dataset, config, descriptions, seed=seed, allow_missing=allow_missing)
    evaluation = Evaluation(dataset, encoder, config, seed, tuple(d.source for d in descriptions))
    score_config = ScoreConfig(config.image_scale, config.text_scale, form, encoder.logit_scale)
    encode_texts = partial(text_features, encoder=encoder, store=store)
    with timed(evaluation, "texts"):
        methods = {setting: setting.to_method() for setting in settings}
        texts = {method: text_features_of(method, inputs, encode_texts, score_config) for method in methods.values()}
    right: dict[Setting, Right] = {}
    for scale in dict.fromkeys(setting.crop_scale for setting in settings):
        recipe = ViewRecipe(config.views, scale, seed)
        with timed(evaluation, "views"):
            features = image_features(dataset, encoder, recipe, store, num_workers=num_workers, progress=progress)
        forms = dict.fromkeys(setting.form for setting in settings if setting.crop_scale == scale)
        with timed(evaluation, "scoring"), progress(features.images * len(forms), "images scored") as bar:
            for score_form in forms:
                group = [setting for setting in settings if (setting.crop_scale, setting.form) == (scale, score_form)]
                rows = [Row(methods[setting], replace(recipe, count=setting.views)) for setting in group]
                scorer = Scorer(
                    [(row, texts[row.method]) for row in rows],
                    replace(score_config, form=score_form),
                    seed,
                    torch.tensor(dataset.labels),
                    dataset.indices,
                )
                scored = score_shards(features, scorer, num_workers=num_workers, update=bar.update)
                right |= {setting: (result.ranks[:, 0] < 1).numpy() for setting, result in zip(group, scored, strict=True)}
        evaluation.encoded += features.encoded
        evaluation.cached += features.images - features.encoded
    comparisons = _compare_with_full(full, right)
    cells = {setting: Cell(setting, hits, comparisons.get(setting)) for setting, hits in right.items()}
    return Ablation(evaluation, full, [cells[setting] for setting in grid], [cells[setting] for setting in controls])


def _compare_with_full(full: Setting, right: Mapping[Setting, Right]) -> dict[Setting, Comparison]:
    """Compare the full method with every other setting; Holm's correction is over all of these."""
    by_name = {setting.name: setting for setting in right}
    pairs = [(full.name, name) for name in by_name if name != full.name]
    comparisons = compare({setting.name: hits[:, None, None] for setting, hits in right.items()}, pairs)
    return {by_name[comparison.second]: comparison for comparison in comparisons}
