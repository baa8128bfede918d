"""A picture file, or pixels in any form, to the RGB that a person sees."""

from __future__ import annotations

import importlib.util
import os
import stat
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from crossalign.errors import InputError


@dataclass(frozen=True)
class Fetched:
    """A picture file that lies elsewhere, and is fetched when it is its turn.

    Attributes:
        name: what results and errors call it.
        fetch: gives its content; FileNotFoundError says that it is not there, and any other error that nobody knows.
    """

    name: str
    fetch: Callable[[], bytes]

    def __str__(self) -> str:
        """Give its name."""
        return self.name


ImageLike = str | Path | Image.Image | np.ndarray[Any, Any] | Fetched

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""

# `read_image` refuses what PIL only warns of, by itself: turning the warning into an error for a moment would change the
# process's filters, and pictures are read in several threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What PIL warns of in broken EXIF names no file and changes no pixel.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_image(
    source: ImageLike | BinaryIO,
    *,
    name: str | None = None,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
    shortest: int | None = None,
) -> Tensor:
    """Read a picture as the RGB a person sees: EXIF-turned, transparency on white, any mode or depth.

    Args:
        source: a path, an open file, a `Fetched` one, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or
            of floats in [0, 1].
        name: what errors call it; by default its path.
        formats: PIL's names of the file formats that are read; by default all that PIL knows.
        max_pixels: the most pixels that a file may unpack to; by default PIL's own limit.
        shortest: a JPEG may be unpacked to a half, a quarter or an eighth of its size, which is many times faster, as long
            as its shorter side keeps so many pixels; by default it never is.

    Returns:
        (3, H, W) uint8.

    Raises:
        InputError: the file is missing, is no picture, is broken, or is too large to be decoded safely.
    """
    if isinstance(source, np.ndarray):
        return _to_tensor(_from_array(source))
    if isinstance(source, Fetched):
        try:
            content = source.fetch()
        except FileNotFoundError:
            raise InputError(f"picture {source.name!r} does not exist; check the path") from None
        return read_image(BytesIO(content), name=source.name, formats=formats, max_pixels=max_pixels, shortest=shortest)
    called = f"picture {name or str(source)!r}" if name or isinstance(source, (str, Path)) else "the picture"
    try:
        if isinstance(source, (str, Path)):
            _check_file(called, source)
        if isinstance(source, Image.Image):
            return _to_tensor(source)
        with _open(called, source, formats) as image:
            if image.format == "EPS":
                # PIL would hand the program that the file is to Ghostscript, whatever its name ends in.
                raise InputError(f"{called} cannot be read (it is PostScript, which is run); replace it or leave it out")
            _check_pixels(called, image.size, max_pixels or Image.MAX_IMAGE_PIXELS)
            if shortest is not None and shortest < min(image.size):
                # Only JPEG's transform can leave out detail while it unpacks; for other formats this does nothing.
                share = shortest / min(image.size)
                image.draft(None, (ceil(image.width * share), ceil(image.height * share)))
            return _to_tensor(image)
    except FileNotFoundError:
        raise InputError(f"{called} does not exist; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{str(source)!r} is a folder, not a picture; give the pictures in it") from None
    except UnidentifiedImageError:
        kinds = f"none of {', '.join(formats)}" if formats else "no picture"
        raise InputError(f"{called} cannot be read (its content is {kinds}); replace it or leave it out") from None
    except InputError:
        raise
    except Exception as error:
        # PIL's decoders fail on broken files in many types, RuntimeError among them.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{called} cannot be read ({reason}); replace it or leave it out") from None


def _open(called: str, source: str | Path | BinaryIO, formats: tuple[str, ...] | None) -> Image.Image:
    try:
        return Image.open(source, formats=formats)
    except UnidentifiedImageError:
        if formats is None and _reads_heif():
            return Image.open(source)
        if formats is None and _is_heic(source):
            raise InputError(
                f"{called} cannot be read (its content is HEIC); run `pip install pillow-heif`, or leave it out"
            ) from None
        raise


@lru_cache(maxsize=1)
def _reads_heif() -> bool:
    """Plug HEIC, the pictures of many telephones, into PIL where the package for it is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def _is_heic(source: str | Path | BinaryIO) -> bool:
    """Look at a file's first bytes: a box of the type "ftyp", and in it the brand."""
    with nullcontext(source) if not isinstance(source, (str, Path)) else open(source, "rb") as file:
        file.seek(0)
        return file.read(12)[4:] in (b"ftypheic", b"ftypheix", b"ftypheim", b"ftyphevc")


def _check_file(called: str, path: str | Path) -> None:
    """Refuse what is no file before it is opened: a pipe that nobody writes to would be waited for without end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{called} is no regular file; save it as one")


def _check_pixels(called: str, size: tuple[int, int], most: int | None) -> None:
    width, height = size
    if most is not None and width * height > most:
        raise InputError(
            f"{called} cannot be read ({width} x {height} are {width * height} pixels, but {most} are the limit); "
            "shrink it or leave it out"
        )


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise InputError(f"an array of shape {array.shape} is no picture; give (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype.kind == "f":
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"an array of {array.dtype} is no picture; give uint8, uint16 or floats in [0, 1]")
    return Image.fromarray(array)


def _to_tensor(image: Image.Image) -> Tensor:
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_deep(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    # A writable copy: the buffer of a PIL image must not be shared with a tensor.
    pixels = torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))
    # The strided (channels-last) layout is the one torch resizes fastest.
    return pixels.permute(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says. Broken EXIF says nothing, also where only what stands beside the turn is broken."""
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _from_deep(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float greyscale to 8 bits; PIL's own conversion clips them to white."""
    values = np.asarray(image).astype(np.float64)
    highest = values[np.isfinite(values)].max(initial=0)
    values = np.nan_to_num(values, nan=0, posinf=highest, neginf=0)
    if image.mode == "F" and highest <= 1:
        white = 1.0
    else:
        white = 65535.0 if image.mode.startswith("I;16") or highest > 255 else 255.0
    return Image.fromarray((values.clip(0, white) / white * 255).round().astype(np.uint8))
