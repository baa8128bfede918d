"""The classes of questions, cached between requests: their texts and example images are encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.classifier.calibration import Calibrations
from crossalign.classifier.classifier import decided
from crossalign.classifier.examples import EXAMPLE_VIEWS, ExampleImages
from crossalign.classifier.views import with_views
from crossalign.datasets.configs import load_config
from crossalign.datasets.examples import Examples, check_distinct, find_examples
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features.image_cache import content_digest
from crossalign.features.streaming import ViewPolicy
from crossalign.images.crops import ViewRecipe
from crossalign.images.decoding import read_image
from crossalign.images.inputs import Fetched, name_of
from crossalign.methods.registry import pick_method
from crossalign.web.thumbnails import EXAMPLE_SIDE, reduced

CACHED_BYTES = 150_000_000
"""Size of all cached classes together: features of texts and examples, and the small copies of example images."""

Views = int | Literal["adaptive"] | None
Read = Callable[[str, str | bytes, int], Tensor]
"""Takes the name of an image, its path or content, and the least pixels of its shorter side; gives (3, H, W) uint8."""


@dataclass(frozen=True)
class ExampleFile:
    """An example image as it was sent.

    Attributes:
        name: of the file, or its number.
        digest: of its content; two files with the same name and digest are the same.
        source: its content, or its path among the uploads of the page.
    """

    name: str
    digest: str
    source: str | bytes = field(compare=False, repr=False)

    @classmethod
    def of(cls, name: str, source: str | bytes) -> ExampleFile:
        """Take a file's content, or its path.

        Raises:
            InputError: it cannot be read.
        """
        digest = content_digest(source)
        if digest is None:
            raise InputError(f"example {name!r} cannot be read any more; upload it again")
        return cls(name, digest, source)


@dataclass(frozen=True)
class Question:
    """What is asked of images. It can be hashed, so that cached classes can be looked up by it.

    Attributes:
        labels: class names; without labels and examples the server's own classes are meant.
        descriptions: (class name, its texts) each, or none at all.
        examples: (class name, its example images) each, or none at all.
        other: further class names that are no answer.
        method, domain, views, multi_label, threshold: as `Classifier` takes them.
    """

    labels: tuple[str, ...] = ()
    descriptions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    examples: tuple[tuple[str, tuple[ExampleFile, ...]], ...] = ()
    other: tuple[str, ...] = ()
    method: str = "wca"
    domain: str = ""
    views: Views = None
    multi_label: bool = False
    threshold: float | None = None

    @classmethod
    def of(
        cls,
        labels: Sequence[str] = (),
        descriptions: Mapping[str, Sequence[str]] | None = None,
        examples: Mapping[str, Sequence[ExampleFile]] | None = None,
        other: Sequence[str] = (),
        **settings: Any,
    ) -> Question:
        """Take lists and mappings, whatever the spaces in the labels."""
        texts = tuple((name, tuple(of_class)) for name, of_class in (descriptions or {}).items())
        files: dict[str, list[ExampleFile]] = {}
        for name, of_class in (examples or {}).items():
            files.setdefault(_normal(name), []).extend(of_class)
        by_class = tuple((name, tuple(of_class)) for name, of_class in files.items())
        return cls(tuple(map(_normal, labels)), texts, by_class, tuple(map(_normal, other)), **settings)

    @property
    def is_own(self) -> bool:
        """Whether it is about the server's own classes."""
        return not self.labels and not self.examples

    @property
    def has_few_views(self) -> bool:
        """Whether examples get fewer views for it than they do otherwise."""
        return isinstance(self.views, int) and self.views < EXAMPLE_VIEWS

    @property
    def classes(self) -> Question:
        """The part of it that decides which texts and examples are encoded, without the content of files."""
        examples = tuple((name, tuple(replace(file, source=b"") for file in files)) for name, files in self.examples)
        return replace(self, examples=examples, views=None, multi_label=False, threshold=None)


@dataclass(frozen=True)
class Defaults:
    """What a server was started with, for questions that leave it open.

    Attributes:
        labels: its own class names; empty if those of its examples are meant, or it has none.
        examples: folder DIR/CLASS/images of its own classes, or None.
        calibration: of its own classes, or None.
        threshold: the least probability of an answer, for all questions; None leaves it to calibration and method.
    """

    labels: tuple[str, ...] = ()
    examples: str | None = None
    calibration: Calibrations | None = None
    threshold: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its own class names.

        Raises:
            InputError: the folder of examples cannot be read.
        """
        return self.labels or (tuple(find_examples(self.examples)) if self.examples else ())


class LabelSets:
    """Classifiers by question, the least recently used dropped first. One thread encodes, so nobody starves."""

    def __init__(self, encoder: Encoder, read: Read, defaults: Defaults):
        self._encoder, self._read, self._defaults = encoder, read, defaults
        self._lock = threading.Lock()
        self._cached: OrderedDict[Question, Future[Classifier]] = OrderedDict()
        threads = (torch.get_num_threads(),)
        self._pool = ThreadPoolExecutor(1, "labels", initializer=torch.set_num_threads, initargs=threads)

    def __len__(self) -> int:
        return len(self._cached)

    def get(self, question: Question) -> Future[Classifier]:
        """Look up or begin the classifier of a question's classes; clients with the same ones wait for the same."""
        key = self._key(question)
        with self._lock:
            if key not in self._cached:
                try:
                    self._cached[key] = self._pool.submit(self._make, question, key)
                except RuntimeError:  # The pool has been shut down: no other state of it refuses work.
                    cancelled: Future[Classifier] = Future()
                    cancelled.cancel()
                    return cancelled
            self._cached.move_to_end(key)
            return self._cached[key]

    def close(self) -> None:
        """Begin no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _key(self, question: Question) -> Question:
        """Give the part of a question that decides what is encoded; examples get as many views as images, up to a limit."""
        has_examples = bool(question.examples) or (question.is_own and self._defaults.examples is not None)
        return (
            replace(question.classes, views=question.views) if has_examples and question.has_few_views else question.classes
        )

    def _make(self, question: Question, key: Question) -> Classifier:
        defaults, own = self._defaults, question.is_own
        copies: dict[str, bytes] = {}
        try:
            if own and not defaults.names:
                raise InputError("no labels were given, and the server has none of its own; send two or more, or examples")
            classify = Classifier(
                (defaults.labels if own else question.labels) or None,
                dict(question.descriptions) or None,
                self._encoder,
                question.method,
                examples=defaults.examples if own else self._examples(question, copies),
                other=question.other,
                domain=question.domain,
                views=key.views,
                calibration=defaults.calibration if own else None,
                num_workers=0,
            )
            if classify.examples:
                shown = _with_copies(classify.examples, copies)
                source = classify.descriptions_source
                classify = Classifier.of(
                    classify.scorer, self._encoder, classify.views, examples=shown, descriptions_source=source
                )
        except BaseException:
            with self._lock:
                self._cached.pop(key, None)
            raise
        self._drop(CACHED_BYTES - size_of(classify))
        return classify

    def _examples(self, question: Question, copies: dict[str, bytes]) -> Examples | None:
        """Give the examples of a question so that they are decoded by `Read`, one at a time, and once; fill `copies`."""
        if not question.examples:
            return None
        check_distinct({label: [(file.name, file.digest) for file in files] for label, files in question.examples})
        recipe = ViewRecipe(int(pick_method(question.method).uses_views), load_config("folder").crop_scale, 0)
        shortest = ViewPolicy(recipe).shortest(self._encoder.preprocessing)

        def fetch(file: ExampleFile, key: str) -> Tensor:
            pixels = self._read(file.name, file.source, shortest)
            copies[key] = reduced(pixels, EXAMPLE_SIDE)
            return pixels

        return {
            label: [Fetched(file.name, partial(fetch, file, f"{label}/{number}")) for number, file in enumerate(files)]
            for label, files in question.examples
        }

    def _drop(self, room: int) -> None:
        """Drop the least recently used until the finished ones need at most `room` bytes."""
        with self._lock:
            finished = [(question, future) for question, future in self._cached.items() if future.done()]
            held = sum(size_of(future.result()) for _, future in finished)
            for question, future in finished:
                if held <= room:
                    return
                held -= size_of(future.result())
                del self._cached[question]


def asked_for(cached: Classifier, question: Question, defaults: Defaults) -> Classifier:
    """Give a classifier of cached classes that takes the views of a question, and decides as it wants.

    Raises:
        InputError: its method has no adaptive views, or its encoder no independent probabilities.
    """
    scorer = cached.scorer
    given = [value for value in (question.threshold, defaults.threshold) if value is not None]
    threshold = given[0] if given else None if question.multi_label else scorer.threshold
    return Classifier.of(
        decided(scorer, cached.encoder, None, question.multi_label, threshold),
        cached.encoder,
        with_views(cached.views, scorer.method, question.views),
        examples=cached.examples,
        descriptions_source=cached.descriptions_source,
    )


def size_of(classify: Classifier) -> int:
    """Bytes of the texts and examples of a classifier."""
    holders = [part for part in (classify.scorer.texts, classify.scorer.examples, classify.examples) if part is not None]
    tensors = [value for part in holders for value in vars(part).values() if isinstance(value, Tensor)]
    images = classify.examples.images if classify.examples else ()
    copies = sum(len(image.fetch()) for image in images if isinstance(image, Fetched))
    return copies + sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _with_copies(examples: ExampleImages, copies: Mapping[str, bytes]) -> ExampleImages:
    """Put small copies, in our own encoding, in the place of example images; explanations show these."""
    contents = list(copies.values()) or [
        reduced(read_image(image, shortest=EXAMPLE_SIDE), EXAMPLE_SIDE) for image in examples.images
    ]
    named = [(name_of(image) or "", content) for image, content in zip(examples.images, contents, strict=True)]
    return replace(examples, images=tuple(Fetched(name, partial(bytes, content)) for name, content in named))


def _normal(name: str) -> str:
    return " ".join(name.split())
