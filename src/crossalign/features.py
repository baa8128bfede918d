"""Encode a dataset's views and a method's texts once, into the store."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from crossalign.datasets import ImageDataset
from crossalign.encoders import Encoder
from crossalign.reading import ImageLike, read_image
from crossalign.store import ShardFolder, Store
from crossalign.views import ViewRecipe, cut_views

SHARD_IMAGES = 256
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
class ImageFeatures:
    """The features of a dataset's views, read shard by shard.

    Attributes:
        images: N of the whole dataset.
        encoded: how many of them were encoded just now; the others came from the store.
    """

    images: int
    encoded: int
    _shards: ShardFolder
    _shard_images: int

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, whole (n, D), views (n, M, D)) in float16, dataset order."""
        for shard, start in enumerate(range(0, self.images, self._shard_images)):
            tensors = self._shards.read(shard)
            if tensors is None:
                raise RuntimeError(f"shard {shard} in {self._shards.folder} was damaged while it was in use; run again")
            yield slice(start, start + len(tensors["whole"])), tensors["whole"], tensors["views"]


def image_features(
    dataset: ImageDataset,
    encoder: Encoder,
    recipe: ViewRecipe,
    store: Store,
    *,
    batch_size: int = 8,
    num_workers: int = 2,
    progress: Progress = silent,
    shard_images: int = SHARD_IMAGES,
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
        shard_images: pictures a shard.

    Raises:
        InputError: a picture cannot be read, or the store not written. Finished shards stay.
    """
    key = {
        "kind": "views",
        "version": RECIPE_VERSION,
        "encoder": encoder.fingerprint,
        "pictures": dataset.pictures_fingerprint,
        "recipe": asdict(recipe),
        "shard_images": shard_images,
        "dtype": "float16",
    }
    if name := getattr(encoder, "runtime", None) and encoder.runtime.key:
        key["runtime"] = name
    shards = store.open(key)
    total = len(dataset.paths)
    starts = list(range(0, total, shard_images))
    missing = [shard for shard in range(len(starts)) if shards.read(shard) is None]
    rows = {shard: range(starts[shard], min(starts[shard] + shard_images, total)) for shard in missing}
    if missing:
        with progress(sum(map(len, rows.values())), "pictures encoded") as bar:
            order = (row for shard in missing for row in rows[shard])
            work = ((dataset.paths[row], dataset.indices[row]) for row in order)
            features = encode_pictures(work, encoder, recipe, batch_size=batch_size, num_workers=num_workers)
            for shard in missing:
                parts = []
                for feature in islice(features, len(rows[shard])):
                    parts.append(feature.half())
                    bar.update(1)
                both = torch.stack(parts)
                shards.write(shard, {"whole": both[:, 0], "views": both[:, 1:]})
    return ImageFeatures(total, sum(map(len, rows.values())), shards, shard_images)


def encode_pictures(
    pictures: Iterable[tuple[ImageLike, int]],
    encoder: Encoder,
    recipe: ViewRecipe,
    *,
    batch_size: int,
    num_workers: int,
) -> Iterator[Tensor]:
    """Yield for each (picture, index) its (1 + M, D) float32 features, the whole image first, in order."""

    on_cpu = encoder.device.type == "cpu"

    def read(picture: tuple[ImageLike, int]) -> tuple[Tensor, int]:
        source, index = picture
        image = read_image(source)
        # A GPU cuts views faster than it is handed them: the whole picture goes there, once, while it computes.
        return (cut(image, index) if on_cpu else image.contiguous().pin_memory()), index

    def cut(image: Tensor, index: int) -> Tensor:
        return cut_views(image, recipe, encoder.preprocessing, index)

    ready = ordered_map(read, pictures, num_workers, ahead=2 * batch_size)
    views = (image if on_cpu else cut(image.to(encoder.device, non_blocking=True), index) for image, index in ready)
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
