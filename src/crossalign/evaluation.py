"""Methods over a dataset's features: accuracies with their statistics, timing and provenance."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossalign.alignment import Form
from crossalign.configs import Config
from crossalign.datasets import ImageDataset
from crossalign.descriptions import Descriptions
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features import Progress, image_features, silent, text_features
from crossalign.methods import Method, class_scores, text_bank
from crossalign.prompts import prompt_inputs
from crossalign.statistics import wilson_interval
from crossalign.store import Store
from crossalign.views import ViewRecipe

SCHEMA = 1


@dataclass(frozen=True)
class MethodResult:
    """One method's accuracy.

    Attributes:
        method: its name.
        form: of the score.
        ranks: (N, R) how many classes scored above the true one, for each picture and run; one run if nothing is drawn.
    """

    method: str
    form: Form
    ranks: np.ndarray[Any, np.dtype[np.int64]]

    def accuracies(self, top: int) -> list[float]:
        """Top-`top` accuracy of each run, in percent."""
        return [100.0 * float(share) for share in (self.ranks < top).mean(axis=0)]

    def to_dict(self) -> dict[str, Any]:
        """Give the row of the results file; `std` is the noise of re-drawing the same encoded views."""
        runs = self.accuracies(1)
        top1, n = float(np.mean(runs)), len(self.ranks)
        low, high = wilson_interval(top1 / 100 * n, n)
        row = {
            "method": self.method,
            "top1": top1,
            "top5": float(np.mean(self.accuracies(5))),
            "n": n,
            "ci95": [100 * low, 100 * high],
            "form": self.form,
        }
        if len(runs) > 1:
            row |= {"std": float(np.std(runs, ddof=1)), "runs": runs}
        return row


@dataclass
class Evaluation:
    """What `evaluate` found, with all that is needed to find it again.

    Attributes:
        dataset, encoder, config, seed: what was measured, and how.
        sources: the descriptions' files.
        results: one a method.
        timing: seconds a stage.
        encoded: how many pictures were encoded just now; the others came from the store.
    """

    dataset: ImageDataset
    encoder: Encoder
    config: Config
    seed: int
    sources: tuple[str, ...]
    results: list[MethodResult] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    encoded: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give the results file's content."""
        dataset, encoder, config = self.dataset, self.encoder, self.config
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
            },
            "views": {
                "count": config.views,
                "crop_scale": list(config.crop_scale),
                "sampled": config.sampled_views,
                "runs": config.runs,
            },
            "scales": {"image": config.image_scale, "text": config.text_scale},
            "descriptions": list(self.sources),
            "seed": self.seed,
            "results": [result.to_dict() for result in self.results],
            "timing": self.timing,
            "versions": _versions(),
            "command": " ".join(sys.argv),
        }


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
    num_workers: int = 2,
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
        num_workers: threads that decode and cut.
        progress: shown while pictures are encoded.

    Raises:
        InputError: a picture cannot be read, a class has no description, or a method lacks what it needs.
    """
    store = store or Store()
    recipe = ViewRecipe(config.views if any(m.cross for m in methods) else 0, config.crop_scale, seed)
    done = Evaluation(dataset, encoder, config, seed, tuple(d.source for d in descriptions))
    inputs = prompt_inputs(
        dataset.class_names,
        dataset.aliases,
        descriptions,
        templates=config.templates,
        domain=config.domain,
        seed=seed,
        allow_missing=allow_missing,
    )
    with _timed(done, "texts"):
        banks = [
            text_bank(method, inputs, lambda texts: text_features(texts, encoder, store), config.text_scale)
            for method in methods
        ]
    with _timed(done, "views"):
        features = image_features(
            dataset,
            encoder,
            recipe,
            store,
            batch_size=config.batch_size,
            num_workers=num_workers,
            progress=progress,
        )
    done.encoded = features.encoded
    draws = view_draws(config, seed)
    labels = torch.tensor(dataset.labels)
    ranks: list[list[Tensor]] = [[] for _ in methods]
    with _timed(done, "scoring"), progress(features.images, "pictures scored") as bar:
        for rows, whole, views in features:
            for kept, method, bank in zip(ranks, methods, banks, strict=True):
                scores = class_scores(method, bank, whole, views, image_scale=config.image_scale, form=form, draws=draws)
                kept.append(true_ranks(scores if scores.dim() == 3 else scores[:, None], labels[rows]))
            bar.update(len(whole))
    for kept, method in zip(ranks, methods, strict=True):
        done.results.append(MethodResult(method.name, form, torch.cat(kept).numpy()))
    return done


def view_draws(config: Config, seed: int) -> Tensor:
    """Draw each run's views with replacement, as the reference does: (R, M) how often each view was drawn."""
    draws = torch.empty(config.runs, config.views)
    for run in range(config.runs):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, run, 0xD4A35))))
        drawn = generator.integers(config.views, size=config.sampled_views)
        draws[run] = torch.from_numpy(np.bincount(drawn, minlength=config.views))
    return draws


def true_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the classes ahead of the true one: (N, R, C) and (N,) to (N, R); of equal scores the earlier class leads."""
    if not torch.isfinite(scores).all():
        raise InputError("some scores are not finite; the encoder's weights are damaged or overflow in this precision")
    own = labels[:, None, None].expand(-1, scores.shape[1], 1)
    truth = scores.gather(2, own)
    earlier = torch.arange(scores.shape[2]) < own
    return ((scores > truth) | ((scores == truth) & earlier)).sum(2)


@contextmanager
def _timed(done: Evaluation, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    done.timing[stage] = round(time.perf_counter() - start, 3)


def _versions() -> dict[str, str]:
    packages = ("crossalign", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
