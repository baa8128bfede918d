"""What a user can pass as an image: a path, bytes, an open file, pixels, or a row of a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from crossalign.errors import InputError


@dataclass(frozen=True)
class Fetched:
    """An image file that is stored elsewhere and is fetched when it is needed.

    Attributes:
        name: what results and errors call it.
        fetch: returns its content, or its (3, H, W) pixels; FileNotFoundError says that it does not exist.
    """

    name: str
    fetch: Callable[[], bytes | Tensor]

    def __str__(self) -> str:
        """Give its name."""
        return self.name


ImageLike = (
    str | Path | bytes | BinaryIO | Image.Image | np.ndarray[Any, Any] | Tensor | Fetched | Mapping[str, Any]  # a row
)
Source = str | Path | BinaryIO | Image.Image | np.ndarray[Any, Any] | Tensor
"""What `source_of` makes of an `ImageLike`."""

IMAGE_FIELDS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
"""Names of the field that holds the image, in rows of datasets and columns of tables."""
EXPECTED = "give a path, bytes, a file opened with 'rb', a PIL image, an array (H, W, 3) or a tensor (3, H, W)"
LONGEST_NAME = 200


def is_single(given: object) -> bool:
    """Whether an argument is one image (possibly an invalid one), rather than several."""
    single = (str, os.PathLike, bytes, bytearray, memoryview, Mapping, Image.Image, np.ndarray, Tensor, Fetched)
    return isinstance(given, single) or hasattr(given, "read") or not isinstance(given, Iterable)


def name_of(image: object) -> str | None:
    """The name that results give an image: its path or address, or None if it came as bytes or pixels."""
    return str(image) if isinstance(image, (str, os.PathLike, Fetched)) else None


def shortened(text: str) -> str:
    """Shorten a name that is too long for an error, such as base64 in the place of a path."""
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def source_of(image: Any) -> Source:
    """Convert what a user passes, except `Fetched`, to a path, an open binary file or pixels.

    Raises:
        InputError: it is something else; says what was given and what to give.
    """
    if isinstance(image, Mapping):
        return source_of(_field(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return BytesIO(bytes(image))
    if isinstance(image, (str, Path, Image.Image, np.ndarray, Tensor)):
        return image
    if isinstance(image, os.PathLike):
        return Path(image)
    if isinstance(image, TextIOBase):
        raise InputError("the image is a file opened as text; open it with mode 'rb'")
    if hasattr(image, "read"):
        return image  # type: ignore[no-any-return]
    if isinstance(image, (list, tuple)):
        raise InputError(f"a {type(image).__name__} of {len(image)} is given in the place of one image; {EXPECTED}")
    raise InputError(f"{image!r:.80} is no image ({type(image).__name__}); {EXPECTED}")


def is_image_cell(value: Mapping[str, Any]) -> bool:
    """Tell whether a mapping is an undecoded image of the `datasets` library: {"bytes": ..., "path": ...}."""
    return "bytes" in value and set(value) <= {"bytes", "path"}


def _field(row: Mapping[str, Any]) -> Any:
    """Find the image in a row of a dataset."""
    if is_image_cell(row):
        if row["bytes"] is None:
            path = row.get("path")
            about = f"; its path {str(path)!r} is not opened, give the path itself to read that file" if path else ""
            raise InputError(f"the image's row holds no bytes{about}")
        return row["bytes"]
    fields = [name for name in row if isinstance(name, str) and name.lower() in IMAGE_FIELDS]
    if len(fields) != 1:
        names = ", ".join(map(str, row)) or "none"
        which = "several fields that may be the image" if fields else "no field that is called image"
        raise InputError(f"a row with the fields {names} has {which}; give the image itself, such as row['image']")
    return row[fields[0]]
