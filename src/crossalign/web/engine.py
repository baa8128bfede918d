"""One encoder for many clients: their pictures are encoded together, and the labels' texts are kept between requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds
from crossalign.features.pipeline import encode_views, pass_views
from crossalign.images.crops import LONGEST
from crossalign.images.decoding import read_image
from crossalign.text.descriptions import normalise_name
from crossalign.web.label_sets import LabelSets, Question, with_views

PICTURE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded for strangers; some other formats that PIL knows start programs or are rarely tested."""
AHEAD = 16
"""Pictures whose views wait to be encoded, besides those that are being cut."""
LONGEST_TEXT = 1000
"""Characters of a class name or description; encoders read less."""


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


class Engine:
    """Answers many clients with one encoder.

    Images are decoded and cropped in a few threads; one thread encodes whatever is ready, as many images as fill a pass of
    the encoder and have the same number of views, whoever sent them; each client's thread scores with its own labels. The
    thread that crops an image with adaptive views stays with it, and has its rounds encoded one after the other.

    Attributes:
        encoder: the one encoder.
        limits: what is refused.
    """

    def __init__(self, encoder: Encoder, limits: Limits | None = None, *, num_workers: int = 2):
        self.encoder = encoder
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._places = self.limits.queue
        self._label_sets = LabelSets(encoder)
        self._pending: set[Future[Tensor]] = set()
        self._ready = threading.Condition()
        self._jobs: deque[_Job] = deque()
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
        return len(self._label_sets)

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
            kept = self._label_sets.get(question).result(self.limits.seconds)
        except FutureTimeout:
            raise Unavailable(f"the labels were not encoded within {self.limits.seconds:g} s; try again later") from None
        except CancelledError:
            raise Unavailable("the server is shutting down") from None
        return with_views(kept, question.views)

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
        self._label_sets.close()
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
        if question.views == "adaptive":
            if Rounds.max_views > limits.views:
                raise InputError(
                    f"adaptive views are up to {Rounds.max_views} a picture, but {limits.views} are the limit; give a number"
                )
        elif question.views is not None and not 1 <= question.views <= limits.views:
            raise InputError(f"views is {question.views}, but must be between 1 and {limits.views}")
        known = {normalise_name(name) for name, of_class in described if any(text.strip() for text in of_class)}
        if described and (lacking := [label for label in question.labels if normalise_name(label) not in known]):
            raise InputError(f"there are no descriptions for {', '.join(lacking)}; add some, or leave out all descriptions")

    def _promise(self) -> Future[Tensor]:
        """Give a future that does not outlive the engine."""
        features: Future[Tensor] = Future()
        self._pending.add(features)
        features.add_done_callback(self._pending.discard)
        return features

    def _submit(self, name: str, file: BinaryIO, classify: Classifier) -> Future[Tensor]:
        features = self._promise()
        try:
            self._cutters.submit(self._cut, name, file, classify, features)
        except RuntimeError:
            _settle(features, Unavailable("the server is shutting down"))
        return features

    def _cut(self, name: str, file: BinaryIO, classify: Classifier, features: Future[Tensor]) -> None:
        if features.done():  # its client has given up
            return
        try:
            if classify.rounds:
                _settle(features, self._look(self.read(name, file), classify, features))
            else:
                self._put(_Job(classify.cut(self.read(name, file)), features))
        except Exception as error:
            _settle(features, error)

    def _look(self, image: Tensor, classify: Classifier, features: Future[Tensor]) -> Tensor:
        """Cut and encode round by round what the library would, in the one encoding thread."""
        in_turn = copy(classify)
        in_turn.encoder = _InTurn(self.encoder, lambda views, begun: self._encode_round(views, begun, features))
        ((_, found),) = in_turn.encode([image.permute(1, 2, 0).numpy()])
        if isinstance(found, InputError):
            raise found
        return found

    def _encode_round(self, views: Tensor, begun: bool, features: Future[Tensor]) -> Tensor:
        if features.done():
            raise Unavailable("the client has given up")
        found = self._promise()
        self._put(_Job(views, found, is_round=True), first=begun)
        return found.result()

    def _put(self, job: _Job, first: bool = False) -> None:
        self._room.acquire()
        with self._ready:
            if self._closed:
                raise Unavailable("the server is shutting down")
            # A picture that has begun is ended first, or its thread would cut no other.
            (self._jobs.appendleft if first else self._jobs.append)(job)
            self._ready.notify()

    def _work(self, threads: int) -> None:
        # A thread takes over what another one set last.
        torch.set_num_threads(threads)
        while batch := self._take():
            try:
                encode = encode_rounds if batch[0].is_round else encode_views
                features = list(encode(self.encoder, [job.views for job in batch]))
            except Exception as error:  # the encoder ran out of memory, say: this batch fails, the next may not
                for job in batch:
                    _settle(job.features, error)
            else:
                for job, row in zip(batch, features, strict=True):
                    _settle(job.features, row)
            self._room.release(len(batch))

    def _take(self) -> list[_Job]:
        """Wait for views; take the longest waiting and others like it, as many as fill a pass of the encoder."""
        with self._ready:
            self._ready.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return []
            first = self._jobs[0]
            most = max(1, pass_views(self.encoder) // len(first.views))
            batch = [job for job in self._jobs if job.is_like(first)][:most]
            self._jobs = deque(job for job in self._jobs if job not in batch)
            return batch


@dataclass(frozen=True, eq=False)
class _Job:
    views: Tensor
    features: Future[Tensor]
    is_round: bool = False

    def is_like(self, other: _Job) -> bool:
        """Whether both can be encoded together."""
        return len(self.views) == len(other.views) and self.is_round == other.is_round


def encode_rounds(encoder: Encoder, rounds: Sequence[Tensor]) -> Iterable[Tensor]:
    """Encode one round of adaptive views per image as the library does: on a CPU each round is a pass of its own.

    Rounds have few views; in passes of one size most of the work would be for nothing.
    """
    if encoder.device.type == "cpu":
        return [encoder.encode_images(views) for views in rounds]
    features: Sequence[Tensor] = encoder.encode_images(torch.cat(list(rounds))).split([len(views) for views in rounds])
    return features


class _InTurn:
    """The encoder for one picture of adaptive views, whose rounds wait for their turn."""

    def __init__(self, encoder: Encoder, encode: Callable[[Tensor, bool], Tensor]):
        self._encoder, self._encode = encoder, encode
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Have a round encoded."""
        begun, self._begun = self._begun, True
        return self._encode(pixels, begun)


def _settle(future: Future[Tensor], outcome: Tensor | Exception) -> None:
    """Resolve a future, unless its client has given up."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
