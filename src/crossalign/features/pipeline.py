"""Encode a dataset's views and a method's texts once, into the store."""

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
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from crossalign.datasets import ImageDataset
from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.images.crops import ViewRecipe, cut_views
from crossalign.images.decoding import ImageLike, read_image
from crossalign.images.unpacking import Packed, check_nvjpeg, read_packed, unpack
from crossalign.store.shards import ShardFolder, Store

SHARD_IMAGES, SHARD_VIEWS = 256, 1024
"""The most that a shard holds: what a killed run encodes again, and what a worker of a cluster takes at a time."""
RECIPE_VERSION = 1
"""Raised whenever the same key would give other features."""

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
    """A shard that is to be made.

    Attributes:
        number: the shard's.
        pictures: each with the index that fixes its boxes.
    """

    number: int
    pictures: tuple[tuple[ImageLike, int], ...]


EncodeShards = Callable[[Sequence[ShardWork], ShardFolder, ViewRecipe], Iterator[int]]
"""Encodes and writes shards, and yields every now and then how many pictures more are done."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of a dataset's views, read shard by shard.

    Attributes:
        images: N of the whole dataset.
        encoded: how many of them were encoded just now; the others came from the store.
        shards: where they lie.
        shard_images: how many pictures a shard holds, but for the last.
    """

    images: int
    encoded: int
    shards: ShardFolder
    shard_images: int

    def __len__(self) -> int:
        """How many shards there are."""
        return ceil(self.images / self.shard_images)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, whole (n, D), views (n, M, D)) in float16, dataset order."""
        return (self.read(shard) for shard in range(len(self)))

    def read(self, shard: int) -> tuple[slice, Tensor, Tensor]:
        """Read a shard, as iterating yields it.

        Raises:
            InputError: it was damaged or removed meanwhile.
        """
        tensors = self.shards.read(shard)
        if tensors is None:
            where = str(self.shards.folder)
            raise InputError(f"shard {shard} in {where!r} was damaged or removed while it was in use; run again")
        start = shard * self.shard_images
        return slice(start, start + len(tensors["whole"])), tensors["whole"], tensors["views"]


def image_features(
    dataset: ImageDataset,
    encoder: Encoder,
    recipe: ViewRecipe,
    store: Store,
    *,
    batch_size: int = 8,
    num_workers: int = 2,
    progress: Progress = silent,
    shard_images: int | None = None,
    encode: EncodeShards | None = None,
) -> ImageFeatures:
    """Encode the whole image and the local views of each picture, unless the store holds them.

    Args:
        dataset: N pictures.
        encoder: its weights, preprocessing and device decide the features.
        recipe: which views.
        store: where features are kept, float16.
        batch_size: pictures cut and encoded together.
        num_workers: threads that decode and cut; 0 does it in the calling thread.
        progress: shown while pictures are encoded.
        shard_images: pictures a shard; by default `images_a_shard`.
        encode: makes the shards elsewhere, with an encoder of the same fingerprint and runtime; by default this process
            does.

    Raises:
        InputError: a picture cannot be read, or the store not written. Finished shards stay.
    """
    shard_images = shard_images or images_a_shard(recipe.count)
    key = {
        "kind": "views",
        "version": RECIPE_VERSION,
        "encoder": encoder.fingerprint,
        "pictures": dataset.pictures_fingerprint,
        "recipe": recipe.key,
        "shard_images": shard_images,
        "dtype": "float16",
    }
    if name := runtime_key(encoder):
        key["runtime"] = name
    shards = store.open(key)
    pictures = tuple(zip(dataset.paths, dataset.indices, strict=True))
    starts = range(0, len(pictures), shard_images)
    work = [
        ShardWork(number, pictures[start : start + shard_images])
        for number, start in enumerate(starts)
        if shards.read(number) is None
    ]
    encoded = sum(len(one.pictures) for one in work)
    if work:
        if encode is None:
            encode = partial(encode_shards, encoder=encoder, batch_size=batch_size, num_workers=num_workers)
        with progress(encoded, "pictures encoded") as bar:
            for more in encode(work, shards, recipe):
                bar.update(more)
    return ImageFeatures(len(pictures), encoded, shards, shard_images)


def images_a_shard(views: int) -> int:
    """How many pictures a shard holds, given the number of local views of each."""
    return max(1, min(SHARD_IMAGES, SHARD_VIEWS // (1 + views)))


def encode_shards(
    work: Sequence[ShardWork],
    shards: ShardFolder,
    recipe: ViewRecipe,
    *,
    encoder: Encoder,
    batch_size: int,
    num_workers: int,
) -> Iterator[int]:
    """Encode pictures in this process, and write each shard as soon as it is full; yields 1 after each picture.

    Raises:
        InputError: a picture cannot be read, or the store not written.
    """
    pictures = (picture for one in work for picture in one.pictures)
    features = encode_pictures(pictures, encoder, recipe, batch_size=batch_size, num_workers=num_workers)
    for one in work:
        parts = []
        for feature in islice(features, len(one.pictures)):
            parts.append(feature.half())
            yield 1
        both = torch.stack(parts)
        shards.write(one.number, {"whole": both[:, 0], "views": both[:, 1:]})


def runtime_key(encoder: Encoder) -> str:
    """Say what computes an encoder's image tower; empty for the reference, and for a package's encoder without a tower."""
    runtime = getattr(encoder, "runtime", None)
    return runtime.key if runtime else ""


def encode_pictures(
    pictures: Iterable[tuple[ImageLike, int]],
    encoder: Encoder,
    recipe: ViewRecipe,
    *,
    batch_size: int,
    num_workers: int,
) -> Iterator[Tensor]:
    """Yield for each (picture, index) its (1 + M, D) float32 features, the whole image first, in order.

    Raises:
        InputError: a picture cannot be read, or the recipe's decoder is not there.
    """
    by_gpu = recipe.decoder == "nvjpeg"
    if by_gpu:
        check_nvjpeg(encoder.device)
    cut_early = encoder.device.type == "cpu" and not by_gpu

    def cut(image: Tensor, index: int) -> Tensor:
        return cut_views(image, recipe, encoder.preprocessing, index)

    def read(picture: tuple[ImageLike, int]) -> tuple[Tensor, int]:
        source, index = picture
        image = read_image(source)
        # A GPU cuts views faster than it is handed them: the whole picture goes there, once, while it computes.
        return (cut(image, index) if cut_early else image.contiguous().pin_memory()), index

    def read_whole(picture: tuple[ImageLike, int]) -> tuple[Packed | Tensor, int]:
        return read_packed(picture[0]), picture[1]

    ahead = 2 * batch_size
    if by_gpu:
        ready = unpack(ordered_map(read_whole, pictures, num_workers, ahead), encoder.device, together=batch_size)
    else:
        ready = ordered_map(read, pictures, num_workers, ahead)
    views = (image if cut_early else cut(image.to(encoder.device, non_blocking=True), index) for image, index in ready)
    while batch := list(islice(views, batch_size)):
        yield from encode_views(encoder, torch.stack(batch))


def encode_views(encoder: Encoder, views: Tensor) -> Tensor:
    """Encode (B, V, 3, *size) pixels to (B, V, D): in passes that suit a CPU's caches or fill a GPU."""
    if encoder.device.type == "cpu":
        # Kernels sum in another order for another batch: passes within one picture make its bits its own.
        passes = [part for picture in views for part in picture.split(16)]
    else:
        passes = list(views.flatten(0, 1).split(2048))
    return torch.cat([encoder.encode_images(part) for part in passes]).view(*views.shape[:2], -1)


def text_features(texts: Sequence[str], encoder: Encoder, store: Store | None) -> Tensor:
    """Encode texts to (K, D) float32, unless the store holds them."""
    if store is None:
        return encoder.encode_texts(texts)
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()
    key = {"kind": "texts", "version": RECIPE_VERSION, "encoder": encoder.fingerprint, "texts": digest}
    shards = store.open(key)
    kept = shards.read(0)
    if kept is None:
        kept = {"texts": encoder.encode_texts(texts)}
        shards.write(0, kept)
    return kept["texts"]


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int) -> Iterator[Result]:
    """Map in threads, in order, at most `ahead` results waiting, so that memory does not grow with the input."""
    if workers == 0:
        yield from map(function, items)
        return
    source = iter(items)
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
