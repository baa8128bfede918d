"""One encoder for many clients: their pictures are encoded together, and the labels' texts are kept between requests."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import torch
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.descriptions import normalise_name
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features import encode_views
from crossalign.reading import read_image
from crossalign.views import LONGEST

PICTURE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded for strangers; some other formats that PIL knows start programs or are rarely tested."""
BATCH = 8
"""Pictures encoded together on a GPU; a CPU gains nothing by it, since `encode_views` takes one after another there."""
AHEAD = 16
"""Pictures held unpacked."""
LONGEST_TEXT = 1000
"""Characters of a class name or description; encoders read less."""
KEPT_TEXTS = 100_000
"""Texts of all kept label sets together: 150 MB at 384 numbers a text."""


class Busy(RuntimeError):
    """The queue is full: the client may try again."""


class Unavailable(RuntimeError):
    """A picture that was accepted found no answer in time."""


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        megabytes: of a request.
        megapixels: of a picture.
        images, labels, texts, views: in a request: pictures, class names, descriptions, local views a picture.
        queue: pictures of all clients that wait or are worked on.
        seconds: until a request is given up.
    """

    megabytes: float = 32
    megapixels: float = 50
    images: int = 32
    labels: int = 1000
    texts: int = 10_000
    views: int = 200
    queue: int = 64
    seconds: float = 120

    def __post_init__(self) -> None:
        if self.images > self.queue:
            raise InputError(f"the queue holds {self.queue} pictures, but a request may bring {self.images}; change one")


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
    views: int | None = None

    @classmethod
    def of(cls, labels: Sequence[str], descriptions: Mapping[str, Sequence[str]] | None = None, **settings: Any) -> Question:
        """Take labels and descriptions as lists, whatever the spaces in the labels."""
        texts = tuple((name, tuple(of_class)) for name, of_class in (descriptions or {}).items())
        return cls(tuple(" ".join(label.split()) for label in labels), texts, **settings)


class Engine:
    """Answers many clients with one encoder.

    Pictures are decoded and cut in a few threads; one thread encodes whatever is ready, on a GPU up to `BATCH` pictures of
    the same number of views at once, whoever sent them; scoring is done by each client's thread with its own labels.

    Attributes:
        encoder: the one encoder.
        limits: what is refused.
    """

    def __init__(self, encoder: Encoder, limits: Limits | None = None, *, num_workers: int = 2):
        self.encoder = encoder
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._places = self.limits.queue
        self._banks = _Banks(encoder)
        self._pending: set[Future[Tensor]] = set()
        self._ready = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._batch = 1 if encoder.device.type == "cpu" else BATCH
        self._room = threading.Semaphore(AHEAD)
        self._closed = False
        self._workers = num_workers
        # torch's own threads inside worker threads would only fight the encoder's for the cores.
        self._cutters = ThreadPoolExecutor(num_workers, "cut", initializer=torch.set_num_threads, initargs=(1,))
        self._worker = threading.Thread(target=self._work, args=(torch.get_num_threads(),), name="encode", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """How many pictures wait or are worked on."""
        return self.limits.queue - self._places

    @property
    def label_sets(self) -> int:
        """For how many sets of labels the texts are kept."""
        return len(self._banks)

    @contextmanager
    def admit(self, pictures: int) -> Iterator[None]:
        """Hold places in the queue.

        Raises:
            Busy: there are not enough.
        """
        with self._lock:
            if pictures > self._places:
                raise Busy(f"{self.waiting} pictures are waiting and {self.limits.queue} are the limit; try again later")
            self._places -= pictures
        try:
            yield
        finally:
            with self._lock:
                self._places += pictures

    def classifier(self, question: Question) -> Classifier:
        """Give the classifier of a question; its texts are encoded once and kept.

        Raises:
            InputError: the question breaks a limit, or cannot be asked.
            Unavailable: the texts were not encoded in time.
        """
        self._check(question)
        try:
            kept = self._banks.get(replace(question, views=None)).result(self.limits.seconds)
        except FutureTimeout:
            raise Unavailable(f"the labels were not encoded within {self.limits.seconds:g} s; try again later") from None
        except CancelledError:
            raise Unavailable("the server is shutting down") from None
        if question.views is None or not kept.method.cross:
            return kept
        classify = copy(kept)
        classify.recipe = replace(kept.recipe, count=question.views)
        return classify

    def encode(self, pictures: Sequence[tuple[str, BinaryIO]], classify: Classifier) -> Iterator[Tensor | InputError]:
        """Yield for each (name, file) the (1 + M, D) features of its views, or why it cannot be read, in order.

        Raises:
            Unavailable: a picture was not encoded in time.
        """
        deadline = time.monotonic() + self.limits.seconds
        features = [self._submit(name, file, classify) for name, file in pictures]
        try:
            for future in features:
                try:
                    yield future.result(max(0.0, deadline - time.monotonic()))
                except InputError as error:
                    yield error
        except FutureTimeout:
            raise Unavailable(f"no answer within {self.limits.seconds:g} s; try again later") from None
        finally:
            for future in features:
                future.cancel()

    def read(self, name: str, file: BinaryIO) -> Tensor:
        """Read a stranger's picture: (3, H, W) uint8.

        Raises:
            InputError: it is broken, of another format, or breaks a limit; names it.
        """
        pixels = int(1e6 * self.limits.megapixels)
        image = read_image(file, name=name, formats=PICTURE_FORMATS, max_pixels=pixels)
        height, width = image.shape[1:]
        if max(height, width) > LONGEST * min(height, width):
            raise InputError(f"picture {name!r} is {width} x {height} pixels, more than {LONGEST} times longer; cut it")
        return image

    def close(self) -> None:
        """Stop as soon as what is being encoded is done; whoever still waits gets `Unavailable`."""
        self._cutters.shutdown(wait=False, cancel_futures=True)
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._room.release(self._workers)
        for future in list(self._pending):
            _settle(future, Unavailable("the server is shutting down"))
        self._banks.close()
        # A thread that is cut off inside torch at the interpreter's end takes the process down with it.
        self._worker.join(30)

    def _check(self, question: Question) -> None:
        limits, described = self.limits, question.descriptions
        texts = [text for _, of_class in described for text in of_class]
        names = [*question.labels, *(name for name, _ in described)]
        for what, count, most in (
            ("labels were given", len(question.labels), limits.labels),
            ("descriptions were given", max(len(texts), len(described)), limits.texts),
            ("characters stand in one text", max(map(len, [*names, *texts, question.domain])), LONGEST_TEXT),
        ):
            if count > most:
                raise InputError(f"{count} {what}, but {most} are the limit; send less")
        if question.views is not None and not 1 <= question.views <= limits.views:
            raise InputError(f"views is {question.views}, but must be between 1 and {limits.views}")
        known = {normalise_name(name) for name, of_class in described if any(text.strip() for text in of_class)}
        if described and (lacking := [label for label in question.labels if normalise_name(label) not in known]):
            raise InputError(f"there are no descriptions for {', '.join(lacking)}; add some, or leave out all descriptions")

    def _submit(self, name: str, file: BinaryIO, classify: Classifier) -> Future[Tensor]:
        features: Future[Tensor] = Future()
        self._pending.add(features)
        features.add_done_callback(self._pending.discard)
        try:
            self._cutters.submit(self._cut, name, file, classify, features)
        except RuntimeError:
            _settle(features, Unavailable("the server is shutting down"))
        return features

    def _cut(self, name: str, file: BinaryIO, classify: Classifier, features: Future[Tensor]) -> None:
        if features.done():  # its client has given up
            return
        self._room.acquire()
        try:
            views = classify.cut(self.read(name, file))
        except Exception as error:
            self._room.release()
            _settle(features, error)
            return
        with self._ready:
            self._jobs.append(_Job(views, features))
            self._ready.notify()

    def _work(self, threads: int) -> None:
        # A thread takes over what another one set last.
        torch.set_num_threads(threads)
        while batch := self._take():
            try:
                features = encode_views(self.encoder, torch.stack([job.views for job in batch]))
            except Exception as error:  # the encoder ran out of memory, say: this batch fails, the next may not
                for job in batch:
                    _settle(job.features, error)
            else:
                for job, row in zip(batch, features, strict=True):
                    _settle(job.features, row)
            self._room.release(len(batch))

    def _take(self) -> list[_Job]:
        """Wait for views; take the longest waiting and others with as many views, whoever sent them."""
        with self._ready:
            self._ready.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return []
            count = len(self._jobs[0].views)
            batch = [job for job in self._jobs if len(job.views) == count][: self._batch]
            self._jobs = deque(job for job in self._jobs if job not in batch)
            return batch


@dataclass(frozen=True, eq=False)
class _Job:
    views: Tensor
    features: Future[Tensor]


class _Banks:
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
        """Find or begin the classifier of a question; clients with the same one wait for the same."""
        with self._lock:
            if question not in self._kept:
                self._kept[question] = self._pool.submit(self._make, question)
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
            )
        except BaseException:
            with self._lock:
                self._kept.pop(question, None)
            raise
        self._drop(KEPT_TEXTS - len(classify.bank.texts))
        return classify

    def _drop(self, room: int) -> None:
        """Drop the least recently used until the finished ones hold at most `room` texts."""
        with self._lock:
            finished = [(question, future) for question, future in self._kept.items() if future.done()]
            held = sum(len(future.result().bank.texts) for _, future in finished)
            for question, future in finished:
                if held <= room:
                    return
                held -= len(future.result().bank.texts)
                del self._kept[question]


def _settle(future: Future[Tensor], outcome: Tensor | Exception) -> None:
    """Resolve a future, unless its client has given up."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
