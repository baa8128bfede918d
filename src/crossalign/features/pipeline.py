"""Encode the views of a dataset and the texts of a method once, and cache them in the store."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from crossalign.datasets import ImageDataset
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.images.crops import Recipe, crop_views
from crossalign.images.decoding import ImageLike, read_image
from crossalign.store.shards import ShardFolder, Store

SHARD_IMAGES, SHARD_VIEWS = 256, 1024
"""The most that a shard holds: what a killed run encodes again, and what a worker of a cluster takes at a time."""
PASS_VIEWS = {"cpu": 8}
"""Views per pass of the encoder, by kind of device: what suits a CPU's caches."""
GPU_PASS_VIEWS = 256
"""Views per pass of the encoder on every other device."""
AHEAD = 16
"""Images that are decoded ahead of the encoder."""
RECIPE_VERSION = 3
"""Raised whenever the same key would give other features."""

TEXTS_AT_ONCE = 2048
"""Texts that are encoded between two reports of progress."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class ProgressBar(Protocol):
    """The part of tqdm's interface that long work reports to."""

    def update(self, n: int) -> object:
        """Report that n more are done."""
        ...


Progress = Callable[[int, str], AbstractContextManager[ProgressBar]]
"""Starts a bar: (how many there will be, what they are) to a context manager."""


class _Silent:
    def update(self, n: int) -> None:
        """Report nothing."""


def silent(total: int, what: str) -> AbstractContextManager[ProgressBar]:
    """Show no progress."""
    return nullcontext(_Silent())


@dataclass(frozen=True)
class ShardWork:
    """A shard to encode.

    Attributes:
        number: its number.
        images: each with the index that fixes its boxes.
        source: digest of the images and their indices.
    """

    number: int
    images: tuple[tuple[ImageLike, int], ...]
    source: str = ""


EncodeShards = Callable[[Sequence[ShardWork], ShardFolder, Recipe], Iterator[int]]
"""Encodes and writes shards, and yields now and then how many more images are done."""


class DamagedShardError(InputError):
    """A shard that was there when work began is damaged or missing now."""


@dataclass
class ImageFeatures:
    """The features of a dataset's views, read shard by shard.

    Attributes:
        images: number of images of the dataset.
        encoded: number of images encoded so far; the others came from the store. It grows while damaged shards are read.
        shards: their folder.
        shard_images: images per shard; the last may have fewer.
        encode_again: encodes a shard again and returns its number of images; None where there is no encoder.
    """

    images: int
    encoded: int
    shards: ShardFolder
    shard_images: int
    encode_again: Callable[[int], int] | None = None

    def __len__(self) -> int:
        """How many shards there are."""
        return ceil(self.images / self.shard_images)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, global views (n, D), views (n, M, D)) in float16, dataset order."""
        return (self.read(shard) for shard in range(len(self)))

    def read(self, shard: int) -> tuple[slice, Tensor, Tensor]:
        """Read a shard, as iterating yields it; a damaged one is encoded again, if that is possible.

        Raises:
            DamagedShardError: it is damaged or missing, and cannot be encoded here.
            InputError: it is encoded again, and one of its images cannot be read, or the store not written.
        """
        tensors = self.shards.read(shard)
        if tensors is None and self.encode_again:
            self.encoded += self.encode_again(shard)
            tensors = self.shards.read(shard)
        if tensors is None:
            where = str(self.shards.folder)
            raise DamagedShardError(f"shard {shard} in {where!r} was damaged or removed while it was in use; run again")
        start = shard * self.shard_images
        return slice(start, start + len(tensors["global_view"])), tensors["global_view"], tensors["views"]


def image_features(
    dataset: ImageDataset,
    encoder: Encoder,
    recipe: Recipe,
    store: Store,
    *,
    num_workers: int = 2,
    progress: Progress = silent,
    shard_images: int | None = None,
    encode: EncodeShards | None = None,
) -> ImageFeatures:
    """Encode the global view and the local views of each image, unless the store holds them.

    Args:
        dataset: N images.
        encoder: its weights, preprocessing and device decide the features.
        recipe: which views. An image that has fewer than `recipe.count` gets zero vectors behind its own.
        store: where features are cached, in float16.
        num_workers: threads that decode and crop; 0 does it in the calling thread.
        progress: shown while images are encoded.
        shard_images: images per shard; by default `images_per_shard`.
        encode: makes the shards elsewhere, with an encoder of the same fingerprint and runtime; by default this process
            does.

    Raises:
        InputError: an image cannot be read, or the store not written. Finished shards stay.
    """
    shard_images = shard_images or images_per_shard(recipe.count)
    key = _views_key(dataset, encoder, recipe, shard_images)
    shards = store.open(key)
    shard_work = partial(_shard_work, dataset, shard_images)
    encode = encode or partial(encode_shards, encoder=encoder, num_workers=num_workers)
    numbers = range(ceil(len(dataset.paths) / shard_images))
    missing = [work for work in map(shard_work, numbers) if shards.source(work.number) != work.source]
    if missing:
        # Where other images of a dataset were replaced, this shard lies in the set of the dataset as it was.
        others = store.others(key, "images")
        missing = [work for work in missing if not _copied(work, others, shards)]
    encoded = sum(len(work.images) for work in missing)
    if missing:
        with progress(encoded, "images encoded") as bar:
            for more in encode(missing, shards, recipe):
                bar.update(more)

    def encode_again(number: int) -> int:
        return sum(encode_shards([shard_work(number)], shards, recipe, encoder=encoder, num_workers=num_workers))

    return ImageFeatures(len(dataset.paths), encoded, shards, shard_images, encode_again)


def _views_key(dataset: ImageDataset, encoder: Encoder, recipe: Recipe, shard_images: int) -> dict[str, Any]:
    key = {
        "kind": "views",
        "version": RECIPE_VERSION,
        "encoder": encoder.fingerprint,
        "images": dataset.images_fingerprint,
        "recipe": recipe.key,
        "shard_images": shard_images,
        "dtype": "float16",
        # Kernels that crop, and kernels that encode, round otherwise on another kind of device or in another pass.
        "device": encoder.device.type,
        "pass_views": pass_views(encoder),
    }
    if name := runtime_key(encoder):
        key["runtime"] = name
    return key


def _shard_work(dataset: ImageDataset, shard_images: int, number: int) -> ShardWork:
    rows = slice(number * shard_images, (number + 1) * shard_images)
    hasher = hashlib.blake2b(digest_size=16)
    for index, content in zip(dataset.indices[rows], dataset.file_fingerprints[rows], strict=True):
        hasher.update(index.to_bytes(8, "big") + content)
    images = zip(dataset.paths[rows], dataset.indices[rows], strict=True)
    return ShardWork(number, tuple(images), hasher.hexdigest())


def _copied(work: ShardWork, others: Sequence[ShardFolder], shards: ShardFolder) -> bool:
    """Copy a shard from another set that has the same images at the same positions, if there is one."""
    for other in others:
        if other.source(work.number) == work.source and (tensors := other.read(work.number)):
            shards.write(work.number, tensors, work.source)
            return True
    return False


def pass_views(encoder: Encoder) -> int:
    """How many views a pass of the encoder holds.

    All passes have this size, and the last is filled up, so that the bits of a view's feature depend neither on the views
    beside it nor on how many images there are.
    """
    return PASS_VIEWS.get(encoder.device.type, GPU_PASS_VIEWS)


def images_per_shard(views: int) -> int:
    """Images per shard, given the number of local views of each."""
    return max(1, min(SHARD_IMAGES, SHARD_VIEWS // (1 + views)))


def encode_shards(
    work: Sequence[ShardWork],
    shards: ShardFolder,
    recipe: Recipe,
    *,
    encoder: Encoder,
    num_workers: int,
) -> Iterator[int]:
    """Encode images in this process, and write each shard as soon as it is full; yields 1 after each image.

    Raises:
        InputError: an image cannot be read, or the store not written.
    """
    images = (image for shard in work for image in shard.images)
    features = encode_images(images, encoder, recipe, num_workers=num_workers)
    for shard in work:
        rows = torch.zeros((len(shard.images), 1 + recipe.count, encoder.width), dtype=torch.float16)
        for row, feature in zip(rows, features, strict=False):
            row[: len(feature)] = feature
            yield 1
        shards.write(shard.number, {"global_view": rows[:, 0], "views": rows[:, 1:]}, shard.source)


def runtime_key(encoder: Encoder) -> str:
    """Say what computes an encoder's image tower; empty for the reference, and for a package's encoder without a tower."""
    runtime = getattr(encoder, "runtime", None)
    return runtime.key if runtime else ""


def encode_images(
    images: Iterable[tuple[ImageLike, int]],
    encoder: Encoder,
    recipe: Recipe,
    *,
    num_workers: int,
) -> Iterator[Tensor]:
    """Yield for each (image, index) its (1 + M, D) float32 features, the global view first, in order.

    Raises:
        InputError: an image cannot be read.
    """
    crops = DeviceCrops(encoder, recipe)

    def read(image: tuple[ImageLike, int]) -> tuple[Tensor, int]:
        source, index = image
        return crops.ahead(read_image(source), index), index

    ready = ordered_map(read, images, num_workers, AHEAD)
    return encode_views(encoder, (crops.views(pixels, index) for pixels, index in ready))


@dataclass(frozen=True)
class DeviceCrops:
    """Crops views on the encoder's device.

    On a CPU that is done by the threads that decode. A GPU crops views faster than they would reach it: the whole image goes
    there once, while the GPU computes.

    Attributes:
        encoder: gives the device and the preprocessing.
        recipe: which views.
    """

    encoder: Encoder
    recipe: Recipe

    def ahead(self, image: Tensor, index: int = 0) -> Tensor:
        """Do what a decoding thread can do: (3, H, W) uint8 to what `views` takes."""
        return self._crop(image, index) if self._on_cpu else image.contiguous().pin_memory()

    def views(self, pixels: Tensor, index: int = 0) -> Tensor:
        """Give the (1 + M, 3, *size) uint8 views on the encoder's device."""
        return pixels if self._on_cpu else self._crop(pixels.to(self.encoder.device, non_blocking=True), index)

    @property
    def _on_cpu(self) -> bool:
        return self.encoder.device.type == "cpu"

    def _crop(self, image: Tensor, index: int) -> Tensor:
        return crop_views(image, self.recipe, self.encoder.preprocessing, index)


def encode_views(encoder: Encoder, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """Encode images given as (V, 3, *size) pixels of their views, V from image to image, to (V, D), in order.

    Passes go across images and have one size; see `pass_views`.
    """
    size = pass_views(encoder)
    pixels: deque[Tensor] = deque()
    counts: deque[int] = deque()
    features = torch.empty((0, encoder.width))
    waiting = 0

    def next_pass() -> Tensor:
        batch: list[Tensor] = []
        missing = size
        while missing and pixels:
            views = pixels.popleft()
            batch.append(views[:missing])
            if len(views) > missing:
                pixels.appendleft(views[missing:])
            missing -= len(batch[-1])
        filled = torch.cat([*batch, batch[-1].new_zeros((missing, *batch[-1].shape[1:]))]) if missing else torch.cat(batch)
        return encoder.encode_images(filled)[: size - missing]

    for views in images:
        pixels.append(views)
        counts.append(len(views))
        waiting += len(views)
        while waiting >= size:
            features = torch.cat([features, next_pass()])
            waiting -= size
        while counts and len(features) >= counts[0]:
            count = counts.popleft()
            yield features[:count]
            features = features[count:]
    if waiting:
        features = torch.cat([features, next_pass()])
    yield from features.split(list(counts))


def text_features(texts: Sequence[str], encoder: Encoder, store: Store | None, progress: Progress = silent) -> Tensor:
    """Encode texts to (K, D) float32, unless the store holds them; `progress` is shown where there are many."""
    if store is None:
        return _encode_texts(texts, encoder, progress)
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()
    key = {"kind": "texts", "version": RECIPE_VERSION, "encoder": encoder.fingerprint, "texts": digest}
    shards = store.open(key)
    cached = shards.read(0)
    if cached is None:
        cached = {"texts": _encode_texts(texts, encoder, progress)}
        shards.write(0, cached)
    return cached["texts"]


def _encode_texts(texts: Sequence[str], encoder: Encoder, progress: Progress) -> Tensor:
    if len(texts) <= TEXTS_AT_ONCE:
        return encoder.encode_texts(texts)
    parts = []
    with progress(len(texts), "texts encoded") as bar:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            parts.append(encoder.encode_texts(texts[start : start + TEXTS_AT_ONCE]))
            bar.update(len(parts[-1]))
    return torch.cat(parts)


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int) -> Iterator[Result]:
    """Map in threads, in order, at most `ahead` results waiting, so that memory does not grow with the input."""
    if workers == 0:
        yield from map(function, items)
        return
    source = iter(items)
    threads = torch.get_num_threads()
    # torch's own threads inside worker threads would only fight the encoder's for the cores.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # What a worker sets is also what threads that are made later begin with.
        torch.set_num_threads(threads)
