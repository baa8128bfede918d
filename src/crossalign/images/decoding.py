"""Decode image files, or convert pixels in any form, to RGB as a person sees it."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import stat
import struct
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from crossalign.errors import InputError
from crossalign.images.arrays import image_of_array, image_of_deep, image_of_tensor, warn_of_faint_colours
from crossalign.images.inputs import Fetched as Fetched
from crossalign.images.inputs import ImageLike as ImageLike
from crossalign.images.inputs import name_of, shortened, source_of

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its EXIF orientation."""

REDUCED_PIXELS = 2**25
"""The most pixels of a JPEG above the limit, which is reduced while it is decoded: 230 MB of memory."""
REDUCIBLE = 8
"""JPEGs up to so many times the limit are decoded at reduced size; larger ones take too long to read."""


def read_image(
    source: ImageLike,
    *,
    name: str | None = None,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
    shortest: int | None = None,
) -> Tensor:
    """Read an image as the RGB a person sees: EXIF-turned, transparency on white, any mode or depth.

    Args:
        source: a path, bytes, an open binary file, a `Fetched` one, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4)
            or a tensor (3, H, W) of uint8 or of floats in [0, 1], or a row of a dataset with one of these.
        name: what errors call it; by default its path.
        formats: PIL's names of the file formats that are read; by default all that PIL knows.
        max_pixels: the most pixels that are decoded; by default PIL's own limit. A JPEG above it is decoded at a half, a
            quarter or an eighth of its size instead of being refused.
        shortest: a JPEG may be decoded at a half, a quarter or an eighth of its size, which is many times faster, as long
            as its shorter side keeps so many pixels; by default only a JPEG above the limit is.

    Returns:
        (3, H, W) uint8.

    Raises:
        InputError: the file is missing, is no image, is broken, or is too large to be decoded safely; or the pixels are out
            of range, or the source is something else.
    """
    name = name or name_of(source)
    called = f"image {shortened(name)!r}" if name else "the image"
    if isinstance(source, Fetched):
        # Other errors are not about the image, so they are passed on.
        try:
            source = source.fetch()
        except FileNotFoundError:
            raise InputError(f"{called} does not exist; check the path") from None
    try:
        return _to_tensor(source_of(source), called, formats, max_pixels, shortest)
    except FileNotFoundError:
        raise InputError(f"{called} {_missing(name or '')}") from None
    except IsADirectoryError:
        raise InputError(f"{called} is a folder, not an image; give the images in it") from None
    except UnidentifiedImageError:
        kinds = f"none of {', '.join(formats)}" if formats else "no image"
        raise InputError(f"{called} cannot be read (its content is {kinds}); replace it or leave it out") from None
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{called} {_missing(name or '')}") from None
        # PIL's decoders fail on broken files in many types, RuntimeError among them.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{called} cannot be read ({reason}); replace it or leave it out") from None


def _missing(name: str) -> str:
    if name.startswith("data:"):
        return "is a data URL, not a path; decode it and give its bytes"
    if re.match(r"https?://", name):
        return "is a URL, not a path; download it and give the file"
    return "does not exist; check the path"


def _to_tensor(
    source: Any, called: str, formats: tuple[str, ...] | None, max_pixels: int | None, shortest: int | None
) -> Tensor:
    if isinstance(source, np.ndarray):
        return _seen(image_of_array(source), called)
    if isinstance(source, Tensor):
        return _seen(image_of_tensor(source), called)
    if isinstance(source, Image.Image):
        return _seen(source, called)
    if isinstance(source, (str, Path)):
        _check_file(called, source)
        with open(source, "rb") as file:
            return _from_file(file, called, formats, max_pixels, shortest)
    try:
        source.seek(0)
    except (AttributeError, OSError):  # a pipe or a socket
        source = BytesIO(source.read())
    return _from_file(source, called, formats, max_pixels, shortest)


def _from_file(
    file: BinaryIO, called: str, formats: tuple[str, ...] | None, max_pixels: int | None, shortest: int | None
) -> Tensor:
    with _open(called, file, formats) as image:
        if image.format == "EPS":
            # PIL would run the file, which is a program, with Ghostscript, whatever its suffix.
            raise InputError(f"{called} cannot be read (it is PostScript, which is run); replace it or leave it out")
        most = max_pixels or Image.MAX_IMAGE_PIXELS
        reduction = _reduction(image, most, shortest)
        if reduction > 1:
            image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
        _check_pixels(called, image.size, most)
        deep_colours = image.mode in ("RGB", "RGBA", "LA") and any(
            ";16" in str(tile[3]) for tile in getattr(image, "tile", ())
        )
        seen = _seen(image, called, _significant_bits(file, image))
        if deep_colours:
            warn_of_faint_colours(seen)
        return seen


def _open(called: str, file: BinaryIO, formats: tuple[str, ...] | None) -> Image.Image:
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    try:
        if start[:3] == b"\xff\xd8\xff" and (formats is None or "JPEG" in formats):
            # `Image.open` would refuse a large JPEG before it can be reduced.
            return JpegImageFile(file)
        return Image.open(file, formats=formats)
    except SyntaxError:
        raise UnidentifiedImageError from None
    except UnidentifiedImageError:
        if formats is None and _reads_heif():
            return Image.open(file)
        if formats is None and start[4:] in (b"ftypheic", b"ftypheix", b"ftypheim", b"ftyphevc"):
            raise InputError(
                f"{called} cannot be read (its content is HEIC); run `pip install pillow-heif`, or leave it out"
            ) from None
        raise


@lru_cache(maxsize=1)
def _reads_heif() -> bool:
    """Register HEIC, the format of many phones, with PIL if the package for it is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def _check_file(called: str, path: str | Path) -> None:
    """Refuse what is no regular file before it is opened: opening a pipe that nobody writes to would never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{called} is no regular file; save it as one")


def _reduction(image: Image.Image, most: int | None, shortest: int | None) -> int:
    """By how much a JPEG is reduced while it is decoded: 1, 2, 4 or 8; other formats cannot be reduced."""
    if not isinstance(image, JpegImageFile):
        return 1
    pixels, reduction = image.width * image.height, 1
    above = most is not None and pixels > most
    # The decoder of a progressive JPEG holds all coefficients at any reduction.
    if most is not None and above and (pixels > REDUCIBLE * most or "progressive" in image.info):
        return 1
    while shortest is not None and reduction < 8 and min(image.size) / (2 * reduction) >= shortest:
        reduction *= 2
    while most is not None and above and reduction < 8 and pixels > reduction**2 * min(REDUCED_PIXELS, most):
        reduction *= 2
    return reduction


def _check_pixels(called: str, size: tuple[int, int], most: int | None) -> None:
    width, height = size
    if most is not None and width * height > most:
        raise InputError(
            f"{called} cannot be read ({width} x {height} are {width * height} pixels, but {most} are the limit); "
            "shrink it or leave it out"
        )


def _significant_bits(file: BinaryIO, image: Image.Image) -> int | None:
    """Read how many bits of each value count: a PNG's sBIT chunk or a TIFF's MaxSampleValue; None if neither says."""
    if not image.mode.startswith("I"):
        return None
    if image.format == "TIFF":
        highest = image.tag_v2.get(281)  # type: ignore[attr-defined]
        highest = max(highest) if isinstance(highest, tuple) and highest else highest
        return int(highest).bit_length() if isinstance(highest, int) and highest > 0 else None
    if image.format != "PNG":
        return None
    position, start = file.tell(), 8
    try:
        while True:
            file.seek(start)
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"sBIT":
                return file.read(1)[0]
            if kind in (b"IDAT", b"IEND"):
                return None
            start += 12 + length
    finally:
        file.seek(position)


def _seen(image: Image.Image, called: str, bits: int | None = None) -> Tensor:
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = image_of_deep(image, called, bits)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    # A writable copy: the buffer of a PIL image must not be shared with a tensor.
    pixels = torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))
    # The strided (channels-last) layout is the one torch resizes fastest.
    return pixels.permute(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image upright by its EXIF orientation. Broken EXIF is ignored, also if only other entries are broken."""
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)
