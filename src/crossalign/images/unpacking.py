"""JPEG files unpacked on a GPU, by nvJPEG: the whole of a batch at once, to the RGB that a person sees.

Its pixels differ from PIL's by a few levels. What is no plain JPEG, and what nvJPEG refuses, is read as everywhere else, so
that pictures and errors are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from crossalign.errors import InputError
from crossalign.images.decoding import Fetched, ImageLike, read_image

Item = TypeVar("Item")

_END = b"\xff\xd9"
_TURNS = {
    2: (False, [2]),
    3: (False, [1, 2]),
    4: (False, [1]),
    5: (True, []),
    6: (True, [2]),
    7: (True, [1, 2]),
    8: (True, [1]),
}
"""What sets (3, H, W) upright, by its EXIF orientation: whether H and W change places, then which of them are reversed."""


@dataclass(frozen=True)
class Packed:
    """A plain JPEG file, as it lies on a disk.

    Attributes:
        name: what errors call it.
        content: (bytes,) uint8, on the CPU.
        orientation: EXIF's, 1 to 8.
    """

    name: str
    content: Tensor
    orientation: int


def read_packed(source: ImageLike) -> Packed | Tensor:
    """Read a file of plain JPEG as it is, and anything else as `reading.read_image` does, to (3, H, W) uint8.

    Raises:
        InputError: as in `reading.read_image`; whether the rest of a JPEG is whole shows when it is unpacked.
    """
    content = _content(source)
    if content is None:
        return read_image(source)
    orientation = _plain_orientation(content)
    if orientation is None:
        return read_image(BytesIO(content), name=str(source))
    return Packed(str(source), _bytes(content), orientation)


def unpack(
    pictures: Iterable[tuple[Packed | Tensor, Item]], device: torch.device, together: int
) -> Iterator[tuple[Tensor, Item]]:
    """Unpack on a device those of some pictures that are packed, a batch at once, and let the others pass.

    Args:
        pictures: each with whatever belongs to it.
        device: where their (3, H, W) uint8 pixels are made; what passes or is refused there is left on the CPU.
        together: how many pictures are taken at a time.

    Raises:
        InputError: a file is broken, or the decoder is.
    """
    source = iter(pictures)
    while batch := list(islice(source, together)):
        unpacked = iter(_unpacked([one for one, _ in batch if isinstance(one, Packed)], device))
        yield from ((next(unpacked) if isinstance(one, Packed) else one, item) for one, item in batch)


def check_nvjpeg(device: torch.device) -> None:
    """Make sure that a device unpacks JPEGs itself.

    Raises:
        InputError: it is no CUDA GPU, or nvJPEG is not there.
    """
    if device.type != "cuda":
        raise InputError(f"decoder nvjpeg needs a CUDA GPU, but the device is {device}; name one with --device, or take pil")
    _check_decoder(device)


def _check_decoder(device: torch.device) -> None:
    try:
        _decode([_bytes(_small_jpeg())], device)
    except Exception as error:
        # Without a driver, a build or a library for it, torch and torchvision fail in many types.
        raise InputError(
            f"decoder nvjpeg does not work on {device} ({_reason(error)}); install a torchvision that has it, or take pil"
        ) from None


def _content(source: ImageLike) -> bytes | None:
    """Read what lies in a file; None for what is none or cannot be read, of which `read_image` says why."""
    if isinstance(source, Fetched):
        with suppress(FileNotFoundError):
            return source.fetch()
    elif isinstance(source, (str, Path)):
        # A pipe that nobody writes to would be waited for without end.
        with suppress(OSError):
            return Path(source).read_bytes() if Path(source).is_file() else None
    return None


def _plain_orientation(content: bytes) -> int | None:
    """Give the EXIF orientation that a JPEG's header tells; None unless it is one that every decoder shows alike."""
    # Half a file may be no error for nvJPEG.
    if not content.endswith(_END):
        return None
    try:
        # PIL refuses here what is far too large; it warns of the rest, which `read_image` refuses.
        image = Image.open(BytesIO(content), formats=("JPEG",))
    except Exception:
        return None
    with image:
        most = Image.MAX_IMAGE_PIXELS
        if not _has_usual_colours(image) or (most is not None and image.width * image.height > most):
            return None
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
            return orientation if orientation in _TURNS else 1
        except Exception:
            return 1


def _has_usual_colours(image: Image.Image) -> bool:
    """Tell whether a file holds one picture, grey or in YCbCr; which others there are is said by marks that not all read."""
    if not isinstance(image, JpegImageFile) or image.format != "JPEG":
        return False
    names = bytes(component[0] for component in image.layer)
    return image.mode == "L" or (image.mode == "RGB" and names != b"RGB" and image.info.get("adobe_transform", 1) == 1)


def _unpacked(jpegs: Sequence[Packed], device: torch.device) -> list[Tensor]:
    if not jpegs:
        return []
    try:
        found = _decode([jpeg.content for jpeg in jpegs], device)
    except RuntimeError as error:
        # It does not tell of which one.
        if len(jpegs) > 1:
            return [image for jpeg in jpegs for image in _unpacked([jpeg], device)]
        return [_read_refused(jpegs[0], error, device)]
    return [_upright(image, jpeg.orientation) for image, jpeg in zip(found, jpegs, strict=True)]


def _read_refused(jpeg: Packed, error: RuntimeError, device: torch.device) -> Tensor:
    """Read what nvJPEG refuses, unless it is nvJPEG that is broken: PIL's pixels would pass for its own."""
    _check_decoder(device)
    image = read_image(BytesIO(jpeg.content.numpy().tobytes()), name=jpeg.name)
    warnings.warn(f"PIL unpacked picture {jpeg.name!r}, which nvjpeg refuses ({_reason(error)})", stacklevel=2)
    return image


def _reason(error: Exception) -> str:
    """Give the first line, without the compiled parts' own traceback."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _decode(contents: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # It writes from a stream of its own, which does not wait for what is still read from the memory that it is given.
        torch.cuda.synchronize(device)
    found: list[Tensor] = decode_jpeg(contents, mode=ImageReadMode.RGB, device=device)
    return found


def _upright(image: Tensor, orientation: int) -> Tensor:
    turned, reversed_sides = _TURNS.get(orientation, (False, []))
    image = image.transpose(1, 2) if turned else image
    return (image.flip(reversed_sides) if reversed_sides else image).contiguous()


def _bytes(content: bytes) -> Tensor:
    # A writable copy, which is what torch asks for.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


@lru_cache(maxsize=1)
def _small_jpeg() -> bytes:
    """Make a file that every decoder can read."""
    file = BytesIO()
    Image.new("RGB", (16, 16), "white").save(file, "JPEG")
    return file.getvalue()
