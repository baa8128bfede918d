"""Small copies of images, in our own encoding, for showing."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor

SIDE = 960
"""Pixels of the longer side of an image that is shown with its answer."""
EXAMPLE_SIDE = 480
"""Pixels of the longer side of an example image; views of it are shown at a third of that."""


def reduced(pixels: Tensor, side: int) -> bytes:
    """Reduce (3, H, W) uint8 pixels to a WebP file whose longer side has at most `side` pixels."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "webp", quality=85)
    return file.getvalue()
