"""The texts of labels, kept between requests: classifiers by what is asked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from crossalign.classifier import Classifier, check_adaptive
from crossalign.encoders import Encoder
from crossalign.features.adaptive import Rounds

KEPT_TEXTS = 100_000
"""Texts of all kept label sets together: 150 MB at 384 numbers a text."""

Views = int | Literal["adaptive"] | None


@dataclass(frozen=True)
class Question:
    """What is asked of pictures. It can be hashed, so that label sets are found again by it.

    Attributes:
        labels: class names.
        descriptions: (class name, its texts) each, or none at all.
        method, domain, views: as `Classifier` takes them.
    """

    labels: tuple[str, ...]
    descriptions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    method: str = "wca"
    domain: str = ""
    views: Views = None

    @classmethod
    def of(cls, labels: Sequence[str], descriptions: Mapping[str, Sequence[str]] | None = None, **settings: Any) -> Question:
        """Take labels and descriptions as lists, whatever the spaces in the labels."""
        texts = tuple((name, tuple(of_class)) for name, of_class in (descriptions or {}).items())
        return cls(tuple(" ".join(label.split()) for label in labels), texts, **settings)


class LabelSets:
    """Classifiers by question, the least recently used dropped first. One thread encodes texts, so nobody starves."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._lock = threading.Lock()
        self._kept: OrderedDict[Question, Future[Classifier]] = OrderedDict()
        threads = (torch.get_num_threads(),)
        self._pool = ThreadPoolExecutor(1, "texts", initializer=torch.set_num_threads, initargs=threads)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: Question) -> Future[Classifier]:
        """Find or begin the classifier of a question but for its views; clients with the same one wait for the same."""
        question = replace(question, views=None)
        with self._lock:
            if question not in self._kept:
                try:
                    self._kept[question] = self._pool.submit(self._make, question)
                except RuntimeError:  # The pool has been shut down: no other state of it refuses work.
                    cancelled: Future[Classifier] = Future()
                    cancelled.cancel()
                    return cancelled
            self._kept.move_to_end(question)
            return self._kept[question]

    def close(self) -> None:
        """Begin no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, question: Question) -> Classifier:
        try:
            classify = Classifier(
                question.labels,
                dict(question.descriptions) or None,
                self._encoder,
                question.method,
                domain=question.domain,
                num_workers=0,
            )
        except BaseException:
            with self._lock:
                self._kept.pop(question, None)
            raise
        self._drop(KEPT_TEXTS - len(classify.texts.texts))
        return classify

    def _drop(self, room: int) -> None:
        """Drop the least recently used until the finished ones hold at most `room` texts."""
        with self._lock:
            finished = [(question, future) for question, future in self._kept.items() if future.done()]
            held = sum(len(future.result().texts.texts) for _, future in finished)
            for question, future in finished:
                if held <= room:
                    return
                held -= len(future.result().texts.texts)
                del self._kept[question]


def with_views(classify: Classifier, views: Views) -> Classifier:
    """Give a classifier of the same texts that takes other views of a picture.

    Raises:
        InputError: its method has no adaptive views.
    """
    if views is None or (views != "adaptive" and not classify.method.uses_views):
        return classify
    if views == "adaptive":
        check_adaptive(classify.method)
    other = copy(classify)
    other.rounds = Rounds() if views == "adaptive" else None
    other.recipe = replace(classify.recipe, count=Rounds.max_views if views == "adaptive" else views)
    return other
