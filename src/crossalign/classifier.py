"""`Classifier`: labels for one's own pictures in three lines."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from crossalign.datasets.configs import load_config
from crossalign.encoders import Encoder, load_encoder
from crossalign.encoders._processes import SentEncoder, prepare_process, prepare_torch
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds, encode_until_settled, settled
from crossalign.features.pipeline import AHEAD, Progress, encode_views, ordered_map, silent, text_features
from crossalign.images.crops import ViewRecipe, crop_views
from crossalign.images.decoding import read_image
from crossalign.images.inputs import ImageLike, is_single, name_of
from crossalign.methods.alignment import FORMS, Form
from crossalign.methods.method import Method, ScoreConfig, WeightedMean
from crossalign.methods.registry import pick_method
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions import (
    Descriptions,
    bundled_descriptions,
    bundled_names,
    load_descriptions,
    parse_descriptions,
)
from crossalign.text.labels import check_labels
from crossalign.text.prompts import prompt_inputs

Boxes = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Prediction:
    """A label with the score of its class and its probability among the labels."""

    label: str
    score: float
    probability: float


CSV_HEADER = ("image", "rank", "label", "score", "probability", "error")
"""Of what `Classification.rows` gives."""


@dataclass(frozen=True)
class Classification:
    """What was found for one picture.

    Attributes:
        image: the picture's path, or None if it came as pixels.
        predictions: best first; empty if there was an error.
        error: why the picture has no label, or None.
        views: how many local views were looked at, or None if there was an error.
    """

    image: str | None
    predictions: tuple[Prediction, ...]
    error: str | None = None
    views: int | None = None

    @property
    def label(self) -> str | None:
        """The best label, or None if there was an error."""
        return self.predictions[0].label if self.predictions else None

    def rows(self) -> list[tuple[object, ...]]:
        """Lay it out as a table's rows, one a prediction, or one with the error."""
        if self.error:
            return [(self.image, "", "", "", "", self.error)]
        return [
            (self.image, rank, found.label, f"{found.score:.6f}", f"{found.probability:.6f}", "")
            for rank, found in enumerate(self.predictions, start=1)
        ]


class Classifier:
    """Classify pictures among labels that are given as words.

    Attributes:
        labels: C class names.
        encoder, method: what compares pictures with texts, and how.
        recipe: which views are taken of a picture.
        score_config: scales, form and logit scale of the score.
        texts: the labels' texts, encoded and weighted.

    Example:
        >>> from crossalign import Classifier
        >>> classify = Classifier(["cat", "dog", "cup of coffee"])
        >>> classify("photo.jpg")[0].label
    """

    def __init__(
        self,
        labels: Sequence[str],
        descriptions: Descriptions | Mapping[str, Sequence[str]] | str | Path | None = None,
        encoder: str | Encoder = "builtin",
        method: str = "wca",
        *,
        domain: str = "",
        views: int | Literal["adaptive"] | None = None,
        max_views: int = Rounds.max_views,
        confidence: float = Rounds.confidence,
        crop_scale: tuple[float, float] | None = None,
        seed: int = 0,
        form: Form = "released",
        device: str = "auto",
        runtime: str = "auto",
        precision: str | None = None,
        num_workers: int = 2,
        store: Store | None = None,
        progress: Progress = silent,
    ):
        """Encode the labels once; pictures come later.

        Args:
            labels: at least two different class names.
            descriptions: for each label some texts, a JSON file of them, the name of bundled ones, or loaded ones; without
                any, the hand-written templates ("a close-up photo of a {name}.") stand in for descriptions.
            encoder: a spec for `load_encoder`, or an encoder.
            method: see `crossalign methods`.
            domain: what kind of thing all labels are, such as "pet"; it goes into the sentences.
            views: local views a picture, by default the `folder` config's; or "adaptive" for no more than each picture's
                answer takes, see `adaptive`.
            max_views, confidence: of adaptive views: the most a picture gets, and how likely its answer is to be the one
                that all of them would give.
            crop_scale: (lo, hi), a view's side as a share of the shorter side; by default the `folder` config's.
            seed: of boxes and random descriptors. A picture's boxes depend on it and on its size, not on its neighbours.
            form: of the score, "released" or "paper".
            device: where to compute.
            runtime, precision: of an encoder that is given by its spec; see `load_encoder`.
            num_workers: threads that decode and cut.
            store: keeps the labels' features between runs, if given.
            progress: shown while the texts of many labels are encoded.

        Raises:
            InputError: fewer than two labels, repeated or empty ones, one without descriptions, an unknown method, or a bad
                encoder, seed or crop scale.
        """
        prepare_torch()
        self.labels = tuple(check_labels(labels))
        config = load_config("folder")
        self.method = pick_method(method)
        if form not in FORMS:
            raise InputError(f"form is {form!r}, but must be one of {', '.join(FORMS)}")
        self._workers = num_workers
        self.rounds = Rounds(max_views, confidence) if views == "adaptive" else None
        if self.rounds:
            check_adaptive(self.method)
        count = max_views if views == "adaptive" else config.views if views is None else views
        if self.method.uses_views and count < 1:
            raise InputError(f"method {method} needs at least one view, but views is {count}")
        self.recipe = ViewRecipe(count if self.method.uses_views else 0, crop_scale or config.crop_scale, seed)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, device, runtime=runtime, precision=precision)
        self.encoder = encoder
        self.score_config = ScoreConfig(config.image_scale, config.text_scale, form, encoder.logit_scale)
        self._loaded_in = os.getpid()
        # Twice what the smallest view needs, so that resizing has enough to smooth over.
        smallest = self.recipe.crop_scale[0] if self.method.uses_views else 1.0
        self._shortest = ceil(2 * max(encoder.preprocessing.size) / smallest)
        inputs = prompt_inputs(
            self.labels,
            descriptions=[_descriptions(descriptions, self.labels, config.templates)],
            templates=config.templates,
            domain=domain,
            seed=seed,
        )
        encode = partial(text_features, encoder=encoder, store=store, progress=progress)
        self.texts = text_features_of(self.method, inputs, encode, self.score_config)

    def __copy__(self) -> Classifier:
        """Copy it within this process, with the same encoder."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the texts' features as they are, and how to load the encoder in place of it."""
        state = self.__dict__.copy()
        if "encoder" in state:
            state["encoder"] = SentEncoder.of(self.encoder)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the encoder where the classifier is unpickled."""
        self.__dict__.update(state, _loaded_in=os.getpid())
        if isinstance(state.get("encoder"), SentEncoder):
            self.encoder = state["encoder"].load()

    def __call__(self, images: ImageLike | Iterable[ImageLike], top_k: int = 3) -> list[Classification]:
        """Classify pictures; one that cannot be read has an `error` and the others go on.

        Args:
            images: an image or many: paths, bytes, open binary files, PIL images, arrays, tensors or rows of a dataset; see
                `crossalign.images.inputs`.
            top_k: how many predictions each gets.

        Returns:
            One result a picture, in order.
        """
        given: Any = [images] if is_single(images) else images
        return list(self.stream(given, top_k))

    def stream(self, images: Iterable[ImageLike], top_k: int = 3) -> Iterator[Classification]:
        """Classify pictures as they come, in bounded memory."""
        for image, features in self.encode(images):
            yield self.result(image, features, top_k)

    def encode(self, images: Iterable[ImageLike]) -> Iterator[tuple[ImageLike, Tensor | InputError]]:
        """Yield each picture with the (1 + M, D) features of its views, or with the reason why it cannot be read.

        With adaptive views M is what the picture took.

        Raises:
            InputError: the encoder cannot be used in this process, which was forked.
        """
        prepare_process(self.encoder, self._loaded_in)
        if self.rounds:
            yield from self._encode_adaptively(images, self.rounds)
            return

        def cut(image: ImageLike) -> tuple[ImageLike, Tensor | InputError]:
            try:
                return image, self.cut(read_image(image, shortest=self._shortest))
            except InputError as error:
                return image, error

        # In order: an image whose features are on their way, or one that cannot be read, with the reason.
        order: deque[tuple[ImageLike, InputError | None]] = deque()

        def readable() -> Iterator[Tensor]:
            for image, views in ordered_map(cut, images, self._workers, AHEAD):
                if isinstance(views, Tensor):
                    order.append((image, None))
                    yield views
                else:
                    order.append((image, views))

        for features in encode_views(self.encoder, readable()):
            while order[0][1]:
                yield order.popleft()  # type: ignore[misc]
            yield order.popleft()[0], features
        yield from order  # type: ignore[misc]

    def _encode_adaptively(
        self, images: Iterable[ImageLike], rounds: Rounds
    ) -> Iterator[tuple[ImageLike, Tensor | InputError]]:
        classes = self.texts.pooled
        if self.score_config.form == "released":
            classes = F.normalize(classes, dim=-1)
        score = self.method.score
        assert isinstance(score, WeightedMean)  # as `check_adaptive` has it

        def read(image: ImageLike) -> tuple[ImageLike, tuple[Tensor, Boxes, Tensor] | InputError]:
            try:
                pixels = read_image(image, shortest=self._shortest)
            except InputError as error:
                return image, error
            boxes = self.recipe.boxes(*pixels.shape[1:])
            first = replace(self.recipe, count=rounds.counts[0])
            return image, (pixels, boxes, crop_views(pixels, first, self.encoder.preprocessing))

        def enough(features: Tensor) -> bool:
            whole, views = features[None, 0], features[None, 1:]
            return bool(settled(views, score.weights(whole, views, self.score_config), classes, rounds))

        for image, cut in ordered_map(read, images, self._workers, AHEAD):
            if isinstance(cut, InputError):
                yield image, cut
            else:
                yield image, encode_until_settled(*cut, self.encoder, rounds, enough)

    def result(self, image: ImageLike, features: Tensor | InputError, top_k: int = 3) -> Classification:
        """Turn what `encode` yields into a picture's classification."""
        name = name_of(image)
        if isinstance(features, InputError):
            return Classification(name, (), str(features))
        return Classification(name, self.rank(self.score(features[None])[0], top_k), views=len(features) - 1)

    def cut(self, image: Tensor) -> Tensor:
        """Cut a picture's views: (3, H, W) uint8 to (1 + M, 3, *size) uint8, the whole image first."""
        prepare_process(self.encoder, self._loaded_in)
        return crop_views(image, self.recipe, self.encoder.preprocessing)

    def score(self, features: Tensor) -> Tensor:
        """Score all labels: (B, 1 + M, D) features of views, as `cut` orders them, to (B, C)."""
        whole, local = features[:, 0], features[:, 1:]
        return class_scores(self.method, self.texts, whole, local, self.score_config)

    def rank(self, scores: Tensor, top_k: int = 3) -> tuple[Prediction, ...]:
        """Turn a picture's scores (C,) into its best `top_k` predictions."""
        probabilities = (scores * self.encoder.logit_scale).softmax(-1)
        best = scores.argsort(descending=True, stable=True)[:top_k]
        return tuple(Prediction(self.labels[i], scores[i].item(), probabilities[i].item()) for i in best.tolist())


def check_adaptive(method: Method) -> None:
    """Refuse a method that has no adaptive views.

    Raises:
        InputError: names it.
    """
    if not method.resampled:
        raise InputError(
            f"method {method.name} has no adaptive views, since its score is no weighted mean over local views; "
            "use wca or mean-views, or a number of views"
        )


def _descriptions(
    given: Descriptions | Mapping[str, Sequence[str]] | str | Path | None, labels: Sequence[str], templates: Sequence[str]
) -> Descriptions:
    if given is None:
        stand_ins = {label: tuple(template.format(label) for template in templates) for label in labels}
        return Descriptions("templates", "sentences", stand_ins)
    if isinstance(given, Descriptions):
        return given
    if isinstance(given, (str, Path)):
        bundled = str(given) in bundled_names() and not Path(given).exists()
        return bundled_descriptions(str(given)) if bundled else load_descriptions(given)
    # A single text is a sequence too, of letters; it is left for `parse_descriptions` to refuse.
    lists = {name: texts if isinstance(texts, str) else list(texts) for name, texts in given.items()}
    return parse_descriptions(lists, "descriptions")
