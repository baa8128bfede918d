"""Features of a user's own images in the store, found by the content of a file: another name for it costs no work."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.features.pipeline import RECIPE_VERSION, pass_views, runtime_key
from crossalign.images.inputs import ImageLike
from crossalign.store.shards import IMAGES, Store


class ImageCache:
    """The cached features of images, one file per image.

    Features are stored in float32, so that an answer from the store is the same to the bit as a fresh one.

    Attributes:
        read_images: how many images came from the store so far.
    """

    def __init__(self, store: Store, encoder: Encoder, policy: dict[str, Any]):
        """Open the folder of all images that are encoded in the same way.

        Args:
            store: where features are cached.
            encoder: its weights, preprocessing, device and runtime decide the features.
            policy: JSON values that say which views are encoded.

        Raises:
            InputError: the store cannot be written.
        """
        self._shards = store.open(
            {
                "kind": IMAGES,
                "version": RECIPE_VERSION,
                "encoder": encoder.fingerprint,
                "views": policy,
                "device": encoder.device.type,
                "pass_views": pass_views(encoder),
                "runtime": runtime_key(encoder),
                "width": encoder.width,
            }
        )
        self.read_images = 0
        self._full = False

    def read(self, digest: str | None) -> Tensor | None:
        """Read the (1 + n, D) features of an image; None if they are not there."""
        if digest is None:
            return None
        tensors = self._shards.read(digest)
        if tensors is None:
            return None
        with suppress(OSError):  # `store gc --max-size` removes what was not used for the longest time.
            os.utime(self._shards.path(digest))
        return tensors["features"]

    def write(self, digest: str | None, features: Tensor) -> None:
        """Write the features of an image; where the disk is full, the caching ends with a warning, and not the run."""
        if digest is None or self._full:
            return
        try:
            # Without waiting for the disk: what a power cut damages is found by its digest and encoded again.
            self._shards.write(digest, {"features": features.clone()}, durable=False)
        except InputError as error:
            self._full = True
            warnings.warn(f"features of images are not cached any more: {error}", stacklevel=2)


def content_digest(image: ImageLike) -> str | None:
    """Digest of an image file's bytes; None if the image came as pixels, cannot be read, or is no regular file."""
    if isinstance(image, (bytes, bytearray)):
        return hashlib.blake2b(image, digest_size=16).hexdigest()
    if not isinstance(image, (str, Path)):
        return None
    try:
        if not stat.S_ISREG(os.stat(image).st_mode):  # A pipe may have no end, and has no content to come back to.
            return None
        hasher = hashlib.blake2b(digest_size=16)
        with open(image, "rb") as file:
            while content := file.read(1 << 20):
                hasher.update(content)
        return hasher.hexdigest()
    except (OSError, ValueError):
        return None
