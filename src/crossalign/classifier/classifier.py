"""`Classifier`: labels for one's own images in three lines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from crossalign.classifier.calibration import Calibrations, read_calibrations
from crossalign.classifier.classification import Classification
from crossalign.classifier.examples import ExampleImages, example_classes
from crossalign.classifier.scorer import LabelScorer
from crossalign.classifier.views import view_policy
from crossalign.datasets.configs import load_config
from crossalign.datasets.examples import Examples, find_examples
from crossalign.encoders import Encoder, load_encoder
from crossalign.encoders._anchors import warn_of_unknown
from crossalign.encoders._processes import SentEncoder, prepare_process, prepare_torch
from crossalign.encoders._visual import joint_and_visual, visual_encoder
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds
from crossalign.features.image_cache import ImageCache
from crossalign.features.pipeline import Progress, silent, text_features
from crossalign.features.streaming import Decoded, ViewPolicy, encode_stream
from crossalign.images.inputs import ImageLike, is_single, name_of
from crossalign.methods.alignment import FORMS, Form
from crossalign.methods.method import ScoreConfig
from crossalign.methods.registry import pick_method
from crossalign.methods.scoring import text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions.choosing import Given, descriptions_for
from crossalign.text.labels import check_labels
from crossalign.text.prompts import prompt_inputs


class Classifier:
    """Classify images among labels that are given as words, as example images, or both.

    Attributes:
        scorer: the labels and all that is known of them; turns features into scores and answers.
        encoder: computes features of images and texts.
        views: which views of an image are encoded.
        examples: the example images and the features of their views, for explanations; None if there are none.
        descriptions_source: "bundled:NAME", "templates", the path of a file, "descriptions" for a mapping, or None where
            examples alone decide.

    Example:
        >>> from crossalign import Classifier
        >>> classify = Classifier(["cat", "dog", "cup of coffee"])
        >>> classify("photo.jpg")[0].label
    """

    def __init__(
        self,
        labels: Sequence[str] | None = None,
        descriptions: Given = None,
        encoder: str | Encoder = "builtin",
        method: str = "wca",
        *,
        examples: Examples | str | Path | None = None,
        other: Sequence[str] = (),
        allow_missing: bool = False,
        domain: str = "",
        views: int | Literal["adaptive"] | None = None,
        max_views: int = Rounds.max_views,
        confidence: float = Rounds.confidence,
        crop_scale: tuple[float, float] | None = None,
        seed: int = 0,
        form: Form = "released",
        calibration: Calibrations | str | Path | None = None,
        multi_label: bool = False,
        threshold: float | None = None,
        device: str = "auto",
        runtime: str = "auto",
        precision: str | None = None,
        num_workers: int = 2,
        store: Store | None = None,
        progress: Progress = silent,
    ):
        """Encode the labels' texts and examples once; images come later.

        Args:
            labels: at least two different class names; may be left out if there are examples, whose classes are then known
                by these alone.
            descriptions: texts for each label, a JSON file of them, the name of bundled ones, loaded ones, or "none" for
                hand-written templates ("a close-up photo of a {name}."). By default the bundled ones whose classes include
                all labels, and otherwise the templates; see `descriptions_for`.
            encoder: a spec for `load_encoder`, or an encoder.
            method: how images are compared with texts; see `crossalign methods`.
            examples: a folder DIR/CLASS/images, or {class: images}. With labels, texts and examples answer together, in the
                mixture that is best for the examples (leave-one-out).
            other: further class names that compete, but are no answer: an image that looks most like one of them has no
                label, for the reason "other".
            allow_missing: give labels without descriptions the templates, with a warning, instead of refusing them.
            domain: what kind of thing all labels are, such as "pet"; it goes into the sentences.
            views: local views per image, or "adaptive" for no more than the answer of each image takes; by default adaptive
                for methods whose score is a weighted mean over views, and else the `folder` config's number.
            max_views, confidence: of adaptive views: the most per image, and how likely the answer is to be the one that all
                of them would give.
            crop_scale: (lo, hi), the side of a view as a share of the shorter side; by default the `folder` config's.
            seed: of boxes and random descriptors. The boxes of an image depend on it and on the size of the image only.
            form: of the score, "released" or "paper".
            calibration: the file that `crossalign evaluate --calibration-file` wrote for this encoder, method and labels:
                probabilities become calibrated, and an image below its threshold has no label, for the reason "unsure".
            multi_label: give each label a probability of its own, by the encoder's logit scale and bias; predictions are all
                labels that reach the threshold. Only for encoders that were trained with a sigmoid, such as SigLIP.
            threshold: the least probability of an answer; by default that of the calibration, 0.5 for `multi_label`, or 0.
            device: where to compute.
            runtime, precision: of an encoder that is given by its spec; see `load_encoder`.
            num_workers: threads that decode and crop.
            store: caches the features of labels, examples and images between runs, if given.
            progress: shown while many texts or examples are encoded.

        Raises:
            InputError: fewer than two labels, repeated or empty ones, one without descriptions or examples, an image that is
                an example of two classes, an unknown method, a calibration of something else, `multi_label` with an encoder
                that has no logit bias, or a bad encoder, seed or crop scale.
        """
        prepare_torch()
        config = load_config("folder")
        picked = pick_method(method)
        if form not in FORMS:
            raise InputError(f"form is {form!r}, but must be one of {', '.join(FORMS)}")
        names, by_class = _names(labels, other, examples)
        self.views = view_policy(picked, config, views, Rounds(max_views, confidence), crop_scale, seed)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, device, runtime=runtime, precision=precision)
        self.encoder = encoder
        self.num_workers = num_workers
        self._loaded_in = os.getpid()
        texts = None
        self.descriptions_source: str | None = None
        score_config = ScoreConfig(config.image_scale, config.text_scale, form, encoder.logit_scale)
        if labels is not None:
            chosen = descriptions_for(names, descriptions, templates=config.templates)
            self.descriptions_source = chosen.source
            inputs = prompt_inputs(
                names,
                descriptions=[chosen],
                templates=config.templates,
                domain=domain,
                seed=seed,
                allow_missing=allow_missing,
            )
            inputs = replace(inputs, fallback=config.templates)
            encode = partial(text_features, encoder=encoder, store=store, progress=progress)
            if by_class is None:
                warn_of_unknown(names, encoder, encode)
            texts = text_features_of(picked, inputs, encode, score_config)
        self.scorer = LabelScorer(names, picked, score_config, texts, others=len(other))
        self.examples: ExampleImages | None = None
        if by_class is not None:
            self.scorer, self.examples = example_classes(
                self.scorer, by_class, encoder, self.views, num_workers=num_workers, store=store, progress=progress
            )
        self.scorer = decided(self.scorer, encoder, calibration, multi_label, threshold)
        self._cache = ImageCache(store, self.image_encoder, self.views.key) if store else None

    @classmethod
    def of(
        cls,
        scorer: LabelScorer,
        encoder: Encoder,
        views: ViewPolicy,
        *,
        examples: ExampleImages | None = None,
        descriptions_source: str | None = None,
        num_workers: int = 2,
    ) -> Classifier:
        """Join labels whose texts and examples are encoded already with the encoder that encoded them."""
        classifier = object.__new__(cls)
        classifier.scorer, classifier.encoder, classifier.views = scorer, encoder, views
        classifier.examples, classifier.descriptions_source, classifier._cache = examples, descriptions_source, None
        classifier.num_workers, classifier._loaded_in = num_workers, os.getpid()
        return classifier

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the features of labels as they are, and how to load the encoder in place of it; the store stays behind."""
        return {**self.__dict__, "encoder": SentEncoder.of(self.encoder), "_cache": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the encoder where the classifier is unpickled."""
        self.__dict__.update(state, _loaded_in=os.getpid())
        if isinstance(state["encoder"], SentEncoder):
            self.encoder = state["encoder"].load()

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names that may be an answer."""
        return self.scorer.labels[: len(self.scorer.labels) - self.scorer.others]

    @property
    def cached_images(self) -> int:
        """How many images were found in the store so far."""
        return self._cache.read_images if self._cache else 0

    def __call__(self, images: ImageLike | Iterable[ImageLike], top_k: int = 3) -> list[Classification]:
        """Classify images; one that cannot be read has an `error` and the others go on.

        Args:
            images: an image or many: paths, bytes, open binary files, PIL images, arrays, tensors or rows of a dataset; see
                `crossalign.images.inputs`.
            top_k: how many predictions each gets.

        Returns:
            One result per image, in order.
        """
        given: Any = [images] if is_single(images) else images
        return list(self.stream(given, top_k))

    def stream(self, images: Iterable[ImageLike], top_k: int = 3) -> Iterator[Classification]:
        """Classify images as they come, in bounded memory."""
        for image, features in self.encode(images):
            yield self.result(image, features, top_k)

    def encode(
        self, images: Iterable[ImageLike], decoded: Decoded | None = None
    ) -> Iterator[tuple[ImageLike, Tensor | InputError]]:
        """Yield each image with the (1 + M, D) features of its views, or with the reason why it cannot be read.

        With adaptive views M is as many as its answer takes. With examples, D is the width of the visual space.

        Args:
            images: as for `__call__`.
            decoded: is shown the pixels of each image that is decoded, in the thread that does it; features that come from
                the store need none.

        Raises:
            InputError: the encoder cannot be used in this process, which was forked.
        """
        prepare_process(self.encoder, self._loaded_in)
        return encode_stream(
            images,
            self.image_encoder,
            self.views,
            self.settled,
            num_workers=self.num_workers,
            cache=self._cache,
            decoded=decoded,
        )

    def settled(self, features: Tensor) -> bool:
        """Tell whether the answer of an image is settled: (1 + n, D) features of its views, as `encode` yields them."""
        assert self.views.rounds is not None  # Other policies encode all views, and do not ask.
        return self.scorer.settled(*self.split(features), self.views.rounds)

    def result(self, image: ImageLike, features: Tensor | InputError, top_k: int = 3) -> Classification:
        """Turn what `encode` yields into the classification of an image."""
        name = name_of(image)
        if isinstance(features, InputError):
            return Classification(name, None, None, (), str(features))
        predictions, reason = self.scorer.answer(self.scores(features), top_k)
        label = None if reason or not predictions else predictions[0].label
        return Classification(name, label, reason, predictions, views=len(features) - 1)

    def scores(self, features: Tensor) -> Tensor:
        """Score all labels, other ones last: (1 + M, D) features of an image's views, as `encode` yields them, to (C,)."""
        return self.scorer.scores(*self.split(features[None]))[0]

    @property
    def image_encoder(self) -> Encoder:
        """What encodes images: into the visual space if there are examples, and otherwise into the joint space."""
        return self.encoder if self.scorer.examples is None else visual_encoder(self.encoder)

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Give joint and visual features of what `encode` yields; see `joint_and_visual`."""
        return joint_and_visual(self.image_encoder, features)


def decided(
    scorer: LabelScorer,
    encoder: Encoder,
    calibration: Calibrations | str | Path | None,
    multi_label: bool,
    threshold: float | None,
) -> LabelScorer:
    """Say how probabilities and answers are made of scores; the arguments are those of `Classifier`."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold:g}, but must be a probability, from 0 to 1")
    if multi_label:
        bias = getattr(encoder, "logit_bias", None)
        if bias is None:
            raise InputError(
                f"multi_label needs an encoder that was trained with a sigmoid, such as SigLIP, and {encoder.name} was not: "
                "its probabilities say which label is best, not whether a label is right; use another encoder"
            )
        if calibration is not None or scorer.examples is not None or scorer.others:
            raise InputError("multi_label excludes calibration, examples and other; leave them out")
        return replace(scorer, logit_bias=bias, threshold=0.5 if threshold is None else threshold)
    if calibration is None:
        return replace(scorer, threshold=threshold or 0.0)
    calibrations = calibration if isinstance(calibration, Calibrations) else read_calibrations(calibration)
    fitted = calibrations.pick(encoder, scorer)
    return replace(
        scorer,
        config=replace(scorer.config, logit_scale=fitted.logit_scale),
        threshold=fitted.threshold if threshold is None else threshold,
    )


def _names(
    labels: Sequence[str] | None, other: Sequence[str], examples: Examples | str | Path | None
) -> tuple[tuple[str, ...], Examples | None]:
    """Give all class names, other ones last, and the examples by class."""
    if labels is None:
        if examples is None:
            raise InputError("there are neither labels nor examples; give labels, examples or both")
        by_class = find_examples(examples) if isinstance(examples, (str, Path)) else examples
        wanted = [name for name in by_class if name not in other]
        return tuple(check_labels([*wanted, *other])), by_class
    names = tuple(check_labels([*check_labels(labels), *other]))
    return names, find_examples(examples, names) if isinstance(examples, (str, Path)) else examples
