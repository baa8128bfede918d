"""Features of images as they come, in order and in bounded memory; one that cannot be read yields the reason instead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import ceil
from typing import Any

from torch import Tensor

from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features.adaptive import Rounds, encode_until_settled
from crossalign.features.image_cache import ImageCache, content_digest
from crossalign.features.pipeline import AHEAD, DeviceCrops, encode_views, ordered_map
from crossalign.images.crops import Preprocessing, ViewRecipe, crop_boxes, crop_views
from crossalign.images.decoding import read_image
from crossalign.images.inputs import ImageLike

BLOCK = 256
"""Images whose results may wait for the features of one before them."""

Enough = Callable[[Tensor], bool]
"""(1 + n, D) features of an image to whether more views would not change its answer."""
Decoded = Callable[[ImageLike, Tensor], None]
"""Takes an image as it was given, and its (3, H, W) uint8 pixels."""


@dataclass(frozen=True)
class ViewPolicy:
    """Which local views of an image are encoded.

    Attributes:
        recipe: where they lie, and the most that an image gets.
        rounds: how they are encoded round by round until the answer is settled; None encodes all of them.
    """

    recipe: ViewRecipe
    rounds: Rounds | None = None

    def with_count(self, count: int) -> ViewPolicy:
        """Take another fixed number of views."""
        return ViewPolicy(replace(self.recipe, count=count))

    def shortest(self, preprocessing: Preprocessing) -> int:
        """The shorter side in pixels that a JPEG keeps when it is decoded at a fraction of its size.

        It is twice what the smallest view needs, so that resizing still has pixels to average.
        """
        smallest = self.recipe.crop_scale[0] if self.recipe.count else 1.0
        return ceil(2 * max(preprocessing.size) / smallest)

    @property
    def key(self) -> dict[str, Any]:
        """All that decides the features, as JSON values."""
        return {"recipe": self.recipe.key, "rounds": list(self.rounds.counts) if self.rounds else None}


@dataclass(frozen=True)
class _Read:
    """An image on its way.

    Attributes:
        image: as it was given.
        error: why it cannot be read, or None.
        digest: of its content, if it is to be cached.
        cached: its features in the store, or None.
        pixels: (3, H, W), kept for later rounds; None if it was not decoded, or there are none.
        ahead: what `DeviceCrops.ahead` made of it, or None if it was not decoded.
    """

    image: ImageLike
    error: InputError | None = None
    digest: str | None = None
    cached: Tensor | None = None
    pixels: Tensor | None = None
    ahead: Tensor | None = None


def encode_stream(
    images: Iterable[ImageLike],
    encoder: Encoder,
    policy: ViewPolicy,
    enough: Enough,
    *,
    num_workers: int,
    cache: ImageCache | None = None,
    decoded: Decoded | None = None,
) -> Iterator[tuple[ImageLike, Tensor | InputError]]:
    """Yield each image with the (1 + n, D) features of its views, the global view first, or with the reason for none.

    Args:
        images: paths, bytes, pixels; see `images.inputs`.
        encoder: computes the features.
        policy: which views.
        enough: whether an image needs no further views, if the policy has rounds.
        num_workers: threads that decode and crop; 0 does it in the calling thread.
        cache: where features are looked for before an image is decoded, and left for the next time.
        decoded: is shown the pixels of each image that is decoded, in the thread that does it.
    """
    rounds = policy.rounds
    crops = DeviceCrops(encoder, replace(policy.recipe, count=rounds.counts[0]) if rounds else policy.recipe)
    shortest = policy.shortest(encoder.preprocessing)

    def read(image: ImageLike) -> _Read:
        digest = content_digest(image) if cache else None
        if cache and (cached := cache.read(digest)) is not None:
            return _Read(image, digest=digest, cached=cached)
        try:
            pixels = read_image(image, shortest=shortest)
        except InputError as error:
            return _Read(image, error)
        if decoded:
            decoded(image, pixels)
        return _Read(image, None, digest, None, pixels if rounds else None, crops.ahead(pixels))

    ready = ordered_map(read, images, num_workers, AHEAD)
    if rounds:
        for item in ready:
            yield item.image, item.error or _in_rounds(item, crops, policy, rounds, enough, cache)
        return
    for first in ready:
        yield from _in_passes(chain([first], islice(ready, BLOCK - 1)), crops, cache)


def _in_passes(
    block: Iterable[_Read], crops: DeviceCrops, cache: ImageCache | None
) -> Iterator[tuple[ImageLike, Tensor | InputError]]:
    """Encode all views of each image, in passes that go across images."""
    # In order: images whose features are on their way (None), or are known, or why there are none.
    order: deque[tuple[_Read, Tensor | InputError | None]] = deque()

    def views() -> Iterator[Tensor]:
        for item in block:
            order.append((replace(item, ahead=None), item.error or item.cached))
            if cache and item.cached is not None:
                cache.read_images += 1
            if item.ahead is not None:
                yield crops.views(item.ahead)

    for features in encode_views(crops.encoder, views()):
        while (known := order[0][1]) is not None:
            yield order.popleft()[0].image, known
        item = order.popleft()[0]
        if cache:
            cache.write(item.digest, features)
        yield item.image, features
    yield from ((item.image, known) for item, known in order if known is not None)


def _in_rounds(
    item: _Read, crops: DeviceCrops, policy: ViewPolicy, rounds: Rounds, enough: Enough, cache: ImageCache | None
) -> Tensor | InputError:
    """Encode the views of one image until they are enough; a round is a pass of its own."""
    encoder, pixels = crops.encoder, item.pixels
    if cache and item.cached is not None:
        cache.read_images += 1

    def encode(start: int, end: int) -> Tensor:
        nonlocal pixels
        if item.ahead is not None and start == 0:
            return encoder.encode_images(crops.views(item.ahead))
        if pixels is None:  # Its first rounds came from the store.
            pixels = read_image(item.image, shortest=policy.shortest(encoder.preprocessing))
        return encoder.encode_images(round_views(pixels.to(encoder.device), policy, encoder.preprocessing, start, end))

    try:
        features = encode_until_settled(encode, rounds, enough, item.cached)
    except InputError as error:  # Its file is gone since its content was looked at.
        return error
    if cache and (item.cached is None or len(features) > len(item.cached)):
        cache.write(item.digest, features)
    return features


def round_views(image: Tensor, policy: ViewPolicy, preprocessing: Preprocessing, start: int, end: int) -> Tensor:
    """Crop the views of one round: (3, H, W) uint8 to (n, 3, *size) uint8, the global view first if `start` is 0."""
    if start == 0:
        return crop_views(image, replace(policy.recipe, count=end), preprocessing)
    return crop_boxes(image, policy.recipe.boxes(*image.shape[1:])[start:end], preprocessing)
