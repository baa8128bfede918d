"""Where to look, and what is seen there: boxes, and the pixels inside them in the encoder's input format."""

from __future__ import annotations

import importlib.util
import os
import stat
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from crossalign.configs import check_crop_scale
from crossalign.errors import InputError
from crossalign.resampling import KERNELS, resample

ImageLike = str | Path | Image.Image | np.ndarray[Any, Any]

LONGEST = 32
"""The longer side over the shorter, up to which a picture is resized whole."""

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


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its pixels. It belongs to the encoder, so that nobody can pair the wrong ones.

    Attributes:
        size: (height, width) of the input in pixels.
        mean, std: per channel, of values in [0, 1].
        interpolation: of the resize, always with antialiasing.
        resize: "shortest" scales the shorter side to the input and cuts the centre (CLIP), "squash" ignores the aspect
            (SigLIP), "longest" fits the longer side and pads with `fill`.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: Literal["shortest", "squash", "longest"] = "shortest"
    fill: int = 0

    def fit(self, image: Tensor) -> Tensor:
        """Resize a (3, H, W) uint8 picture to (3, *size) uint8, as the encoder's own transform does."""
        height, width = self.size
        if self.resize == "squash":
            return _resize(image, [height, width], self.interpolation)
        sides = (height / image.shape[1], width / image.shape[2])
        if self.resize == "longest":
            target = [max(1, round(side * min(sides))) for side in image.shape[1:]]
            image = _resize(image, target, self.interpolation)
            top, left = (height - target[0]) // 2, (width - target[1]) // 2
            padding = [left, width - target[1] - left, top, height - target[0] - top]
            return F.pad(image, padding, value=self.fill)
        shorter = min(image.shape[1:])
        if max(image.shape[1:]) > LONGEST * shorter:
            # Only its centre will be left: whole, a thin strip would be blown up to gigabytes first.
            image = _centre(image, [min(side, LONGEST * shorter) for side in image.shape[1:]])
        # Fractions of a pixel are cut, not rounded, as torchvision's Resize does.
        target = [max(1, int(side * max(sides) + 1e-6)) for side in image.shape[1:]]
        return _centre(_resize(image, target, self.interpolation), [height, width])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (B, 3, H, W) pixels, uint8 in 0..255 or float in 0..1, into the encoder's float input."""
        scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1) * scale
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1) * scale
        return (pixels.float() - mean) / std


def _resize(image: Tensor, size: list[int], interpolation: str) -> Tensor:
    """Resize (3, H, W) uint8, antialiased, as `torchvision.transforms.v2` does, whose import takes a second."""
    if list(image.shape[1:]) == size:
        return image
    smooth: dict[str, Any] = {"mode": interpolation, "align_corners": False, "antialias": True}
    if image.device.type == "cpu" and interpolation in ("bilinear", "bicubic"):
        return F.interpolate(image[None], size, **smooth)[0]
    if interpolation not in ("bilinear", "bicubic"):
        smooth = {"mode": interpolation}
    return F.interpolate(image[None].float(), size, **smooth)[0].round_().clamp_(0, 255).to(torch.uint8)


def _centre(image: Tensor, size: list[int]) -> Tensor:
    """Cut the middle out of (3, H, W)."""
    top, left = (round((whole - part) / 2) for whole, part in zip(image.shape[1:], size, strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class ViewRecipe:
    """Which local views are taken of a picture.

    Attributes:
        count: M, the number of local views; the whole image always comes on top of them.
        crop_scale: (lo, hi), a crop's side as a share of the picture's shorter side; uniform between the two.
        seed: with a picture's index it fixes the picture's boxes.
    """

    count: int
    crop_scale: tuple[float, float]
    seed: int

    def __post_init__(self) -> None:
        check_crop_scale(self.crop_scale)
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}, but must not be negative")
        if self.count < 0:
            raise InputError(f"the number of views is {self.count}, but must not be negative")

    def boxes(self, height: int, width: int, index: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Draw the boxes of the picture number `index`: (M, 4) whole pixels, each (left, top, right, bottom).

        Squares of side u * min(H, W), u ~ U(lo, hi), at least one pixel, at a uniformly random place inside the
        picture. Each picture has its own generator, so that boxes depend on nothing but (seed, index) and its size.
        """
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, index))))
        # Three numbers a view, so that the boxes of a shorter list begin a longer one.
        return self.place(generator.random((self.count, 3)), height, width)

    def place(
        self, numbers: np.ndarray[Any, np.dtype[np.float64]], height: int, width: int
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Turn numbers in [0, 1), (M, 3) for side, left and top, into boxes (M, 4) in a picture of that size."""
        share, x, y = numbers.T
        low, high = self.crop_scale
        side = np.maximum((low + (high - low) * share) * min(height, width), 1).astype(np.int64)
        left, top = (x * (width - side + 1)).astype(np.int64), (y * (height - side + 1)).astype(np.int64)
        return np.stack([left, top, left + side, top + side], axis=1)


def cut_views(image: Tensor, recipe: ViewRecipe, preprocessing: Preprocessing, index: int = 0) -> Tensor:
    """Cut a picture's views: (3, H, W) uint8 to (1 + M, 3, *size) uint8, the whole image first."""
    boxes = recipe.boxes(image.shape[1], image.shape[2], index)
    views = torch.empty((1 + len(boxes), 3, *preprocessing.size), dtype=torch.uint8, device=image.device)
    views[0] = preprocessing.fit(image)
    cut_boxes(image, boxes, preprocessing, out=views[1:])
    return views


def cut_boxes(
    image: Tensor, boxes: np.ndarray[Any, np.dtype[np.int64]], preprocessing: Preprocessing, out: Tensor | None = None
) -> Tensor:
    """Cut what is inside boxes (M, 4) out of a (3, H, W) uint8 picture: (M, 3, *size) uint8, into `out` if given."""
    views = torch.empty((len(boxes), 3, *preprocessing.size), dtype=torch.uint8, device=image.device) if out is None else out
    height, width = preprocessing.size
    if image.device.type != "cpu" and height == width and preprocessing.interpolation in KERNELS:
        return views.copy_(resample(image, boxes, height, preprocessing.interpolation))
    for view, (left, top, right, bottom) in zip(views, boxes.tolist(), strict=True):
        view.copy_(preprocessing.fit(image[:, top:bottom, left:right]))
    return views


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
        source: a path, an open file, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of floats in
            [0, 1].
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
