"""One encoder for many clients: their images are encoded together, and classes are cached between requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

import torch
from torch import Tensor

from crossalign.classifier import Classifier
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds, encode_until_settled
from crossalign.features.pipeline import encode_views, pass_views
from crossalign.features.streaming import round_views
from crossalign.images.crops import LONGEST, crop_views
from crossalign.images.decoding import read_image
from crossalign.text.descriptions import normalise_name
from crossalign.web.label_sets import Defaults, LabelSets, Question, Views, asked_for

IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded for strangers; some other formats that PIL knows start programs or are rarely tested."""
AHEAD = 16
"""Images whose views wait to be encoded, besides those that are being cropped."""
LONGEST_TEXT = 1000
"""Characters of a class name or description; encoders read less."""
Decoded = Callable[[int, Tensor], None]
"""Takes the number of an image in its request, and its (3, H, W) uint8 pixels."""


class Busy(RuntimeError):
    """The queue is full: the client may try again."""


class Unavailable(RuntimeError):
    """An image that was accepted got no answer in time."""


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        megabytes: of a request.
        megapixels: of an image.
        images, examples, labels, texts, views: in a request: images, example images, class names, descriptions, local views
            per image.
        queue: images of all clients that wait or are worked on.
        seconds: until a request is given up.
    """

    megabytes: float = 32
    megapixels: float = 50
    images: int = 32
    examples: int = 100
    labels: int = 1000
    texts: int = 10_000
    views: int = 200
    queue: int = 64
    seconds: float = 120

    def __post_init__(self) -> None:
        if self.images > self.queue:
            raise InputError(f"the queue holds {self.queue} images, but a request may bring {self.images}; change one")


class Engine:
    """Answers many clients with one encoder.

    Images are decoded and cropped in a few threads; one thread encodes whatever is ready, as many images as fill a pass of
    the encoder and have the same number of views, whoever sent them; each client's thread scores with its own labels. The
    thread that crops an image with adaptive views stays with it, and has its rounds encoded one after the other.

    Attributes:
        encoder: the one encoder.
        limits: what is refused.
        defaults: what stands in for what a question leaves open.
    """

    def __init__(
        self, encoder: Encoder, limits: Limits | None = None, defaults: Defaults | None = None, *, num_workers: int = 2
    ):
        self.encoder = encoder
        self.limits = limits or Limits()
        self.defaults = defaults or Defaults()
        self._lock = threading.Lock()
        self._places = self.limits.queue
        self._label_sets = LabelSets(encoder, self.read, self.defaults)
        self._pending: set[Future[Tensor]] = set()
        self._ready = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._room = threading.Semaphore(AHEAD)
        self._closed = False
        self._workers = num_workers
        # torch's own threads inside worker threads would only fight the encoder's for the cores.
        self._croppers = ThreadPoolExecutor(num_workers, "crop", initializer=torch.set_num_threads, initargs=(1,))
        self._worker = threading.Thread(target=self._work, args=(torch.get_num_threads(),), name="encode", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """How many images wait or are worked on."""
        return self.limits.queue - self._places

    @property
    def label_sets(self) -> int:
        """How many sets of labels are cached."""
        return len(self._label_sets)

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Hold places in the queue.

        Raises:
            Busy: there are not enough.
        """
        with self._lock:
            if images > self._places:
                raise Busy(f"{self.waiting} images are waiting and {self.limits.queue} are the limit; try again later")
            self._places -= images
        try:
            yield
        finally:
            with self._lock:
                self._places += images

    def check_defaults(self) -> None:
        """Encode the server's own examples, and make sure that its calibration was made for its classes.

        Raises:
            InputError: an example cannot be used, or the calibration was made with something else.
        """
        if self.defaults.examples or self.defaults.calibration:
            self._label_sets.get(Question()).result()

    def classifier(self, question: Question) -> Classifier:
        """Give the classifier of a question; its texts and examples are encoded once and cached.

        Raises:
            InputError: the question breaks a limit, or cannot be asked.
            Unavailable: the texts and examples were not encoded in time.
        """
        self._check(question)
        try:
            cached = self._label_sets.get(question).result(self.limits.seconds)
        except FutureTimeout:
            raise Unavailable(f"the labels were not encoded within {self.limits.seconds:g} s; try again later") from None
        except CancelledError:
            raise Unavailable("the server is shutting down") from None
        if question.views is None and cached.views.rounds is not None and self.limits.views < Rounds.max_views:
            question = replace(question, views=self.limits.views)
        return asked_for(cached, question, self.defaults)

    def encode(
        self, images: Sequence[tuple[str, BinaryIO]], classify: Classifier, decoded: Decoded | None = None
    ) -> Iterator[Tensor | InputError]:
        """Yield for each (name, file) the (1 + M, D) features of its views, or why it cannot be read, in order.

        Args:
            images: names and open files.
            classify: decides which views.
            decoded: is shown the pixels of each image, in the thread that decodes it.

        Raises:
            Unavailable: an image was not encoded in time.
        """
        deadline = time.monotonic() + self.limits.seconds
        shown = [partial(decoded, number) if decoded else None for number in range(len(images))]
        features = [self._submit(name, file, classify, show) for (name, file), show in zip(images, shown, strict=True)]
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

    def read(self, name: str, source: str | bytes | BinaryIO, shortest: int | None = None) -> Tensor:
        """Read a stranger's image.

        Args:
            name: what errors call it.
            source: an open file, its content, or its path among the uploads.
            shortest: as for `read_image`.

        Returns:
            (3, H, W) uint8.

        Raises:
            InputError: it is broken, of another format, or breaks a limit; names it.
        """
        pixels = int(1e6 * self.limits.megapixels)
        image = read_image(source, name=name, formats=IMAGE_FORMATS, max_pixels=pixels, shortest=shortest)
        height, width = image.shape[1:]
        if max(height, width) > LONGEST * min(height, width):
            raise InputError(
                f"image {name!r} is {width} x {height} pixels, and one side is more than {LONGEST} times the other; crop it"
            )
        return image

    def close(self) -> None:
        """Stop as soon as what is being encoded is done; whoever still waits gets `Unavailable`."""
        self._croppers.shutdown(wait=False, cancel_futures=True)
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._room.release(self._workers)
        for future in list(self._pending):
            _settle(future, Unavailable("the server is shutting down"))
        self._label_sets.close()
        # A thread that is stopped inside torch at the interpreter's end takes the process down with it.
        self._worker.join(30)

    def _check(self, question: Question) -> None:
        limits, described, own = self.limits, question.descriptions, question.is_own
        texts = [text for _, of_class in described for text in of_class]
        labels = question.labels or [name for name, _ in question.examples]
        names = [*labels, *question.other, *(name for name, _ in (*described, *question.examples))]
        for what, count, most in (
            ("labels were given", len(labels) + len(question.other), limits.labels),
            ("descriptions were given", max(len(texts), len(described)), limits.texts),
            ("example images were given", sum(len(files) for _, files in question.examples), limits.examples),
            ("characters stand in one text", max(map(len, [*names, *texts, question.domain])), LONGEST_TEXT),
        ):
            if count > most:
                raise InputError(f"{count} {what}, but {most} are the limit; send less")
        self._check_views(question.views)
        known = {normalise_name(name) for name, of_class in described if any(text.strip() for text in of_class)}
        if described and (lacking := [label for label in labels if normalise_name(label) not in known]):
            raise InputError(f"there are no descriptions for {', '.join(lacking)}; add some, or leave out all descriptions")
        few_views = self.defaults.examples is not None and question.has_few_views
        changed = question.multi_label or few_views or question.classes != Question()
        if own and self.defaults.calibration is not None and changed:
            raise InputError(
                "the server's own labels are calibrated as they are; leave out descriptions, other, method, domain, views "
                "and multi_label, or send labels"
            )

    def _check_views(self, views: Views) -> None:
        most = self.limits.views
        if views == "adaptive":
            if Rounds.max_views > most:
                raise InputError(
                    f"adaptive views are up to {Rounds.max_views} per image, but {most} are the limit; give a number"
                )
        elif views is not None and not 1 <= views <= most:
            raise InputError(f"views is {views}, but must be between 1 and {most}")

    def _promise(self) -> Future[Tensor]:
        """Give a future that does not outlive the engine."""
        features: Future[Tensor] = Future()
        self._pending.add(features)
        features.add_done_callback(self._pending.discard)
        return features

    def _submit(
        self, name: str, file: BinaryIO, classify: Classifier, show: Callable[[Tensor], None] | None
    ) -> Future[Tensor]:
        features = self._promise()
        try:
            self._croppers.submit(self._crop, name, file, classify, show, features)
        except RuntimeError:
            _settle(features, Unavailable("the server is shutting down"))
        return features

    def _crop(
        self,
        name: str,
        file: BinaryIO,
        classify: Classifier,
        show: Callable[[Tensor], None] | None,
        features: Future[Tensor],
    ) -> None:
        if features.done():  # its client has given up
            return
        try:
            image = self.read(name, file, classify.views.shortest(self.encoder.preprocessing))
            if show:
                show(image)
            if classify.views.rounds:
                _settle(features, self._encode_in_rounds(image, classify, features))
            else:
                views = crop_views(image, classify.views.recipe, self.encoder.preprocessing)
                self._put(_Job(views, features, classify.image_encoder))
        except Exception as error:
            _settle(features, error)

    def _encode_in_rounds(self, image: Tensor, classify: Classifier, features: Future[Tensor]) -> Tensor:
        """Crop and encode round by round, as the library does, each round in its turn."""
        policy, rounds = classify.views, classify.views.rounds
        assert rounds is not None

        def encode(start: int, end: int) -> Tensor:
            if features.done():
                raise Unavailable("the client has given up")
            encoded = self._promise()
            views = round_views(image, policy, self.encoder.preprocessing, start, end)
            self._put(_Job(views, encoded, classify.image_encoder, is_round=True), first=start > 0)
            return encoded.result()

        return encode_until_settled(encode, rounds, classify.settled)

    def _put(self, job: _Job, first: bool = False) -> None:
        self._room.acquire()
        with self._ready:
            if self._closed:
                raise Unavailable("the server is shutting down")
            # An image that has begun is ended first, or its thread would crop no other.
            (self._jobs.appendleft if first else self._jobs.append)(job)
            self._ready.notify()

    def _work(self, threads: int) -> None:
        # A thread takes over what another one set last.
        torch.set_num_threads(threads)
        while batch := self._take():
            try:
                encode = encode_rounds if batch[0].is_round else encode_views
                features = list(encode(batch[0].encoder, [job.views for job in batch]))
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
    encoder: Encoder
    is_round: bool = False

    def is_like(self, other: _Job) -> bool:
        """Whether both can be encoded together."""
        same_encoder = type(self.encoder) is type(other.encoder)  # the encoder, or its visual space
        return same_encoder and len(self.views) == len(other.views) and self.is_round == other.is_round


def encode_rounds(encoder: Encoder, rounds: Sequence[Tensor]) -> Iterable[Tensor]:
    """Encode one round of adaptive views per image as the library does: on a CPU each round is a pass of its own.

    Rounds have few views; in passes of one size most of the work would be for nothing.
    """
    if encoder.device.type == "cpu":
        return [encoder.encode_images(views) for views in rounds]
    features: Sequence[Tensor] = encoder.encode_images(torch.cat(list(rounds))).split([len(views) for views in rounds])
    return features


def _settle(future: Future[Tensor], outcome: Tensor | Exception) -> None:
    """Resolve a future, unless its client has given up."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
