"""Where to look, and what is seen there: boxes, and the pixels inside them in the encoder's input format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from crossalign.configs import check_crop_scale
from crossalign.errors import InputError

ImageLike = str | Path | Image.Image | np.ndarray[Any, Any]

LONGEST = 32
"""The longer side over the shorter, up to which a picture is resized whole."""

# `read_image` refuses what PIL only warns of, by itself: turning the warning into an error for a moment would change the
# process's filters, and pictures are read in several threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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
        from torchvision.transforms.v2 import InterpolationMode, functional

        mode = InterpolationMode(self.interpolation)
        height, width = self.size
        if self.resize == "squash":
            return functional.resize(image, [height, width], mode, antialias=True)  # type: ignore[no-any-return]
        sides = (height / image.shape[1], width / image.shape[2])
        if self.resize == "longest":
            target = [max(1, round(side * min(sides))) for side in image.shape[1:]]
            image = functional.resize(image, target, mode, antialias=True)
            top, left = (height - target[0]) // 2, (width - target[1]) // 2
            padding = [left, top, width - target[1] - left, height - target[0] - top]
            return functional.pad(image, padding, fill=self.fill)  # type: ignore[no-any-return]
        shorter = min(image.shape[1:])
        if max(image.shape[1:]) > LONGEST * shorter:
            # Only its centre will be left: whole, a thin strip would be blown up to gigabytes first.
            image = functional.center_crop(image, [min(side, LONGEST * shorter) for side in image.shape[1:]])
        # Fractions of a pixel are cut, not rounded, as torchvision's Resize does.
        target = [max(1, int(side * max(sides) + 1e-6)) for side in image.shape[1:]]
        image = functional.resize(image, target, mode, antialias=True)
        return functional.center_crop(image, [height, width])  # type: ignore[no-any-return]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (B, 3, H, W) pixels, uint8 in 0..255 or float in 0..1, into the encoder's float input."""
        scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1) * scale
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1) * scale
        return (pixels.float() - mean) / std


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
        share, x, y = generator.random((self.count, 3)).T
        low, high = self.crop_scale
        side = np.maximum((low + (high - low) * share) * min(height, width), 1).astype(np.int64)
        left, top = (x * (width - side + 1)).astype(np.int64), (y * (height - side + 1)).astype(np.int64)
        return np.stack([left, top, left + side, top + side], axis=1)


def cut_views(image: Tensor, recipe: ViewRecipe, preprocessing: Preprocessing, index: int = 0) -> Tensor:
    """Cut a picture's views: (3, H, W) uint8 to (1 + M, 3, *size) uint8, the whole image first."""
    boxes = recipe.boxes(image.shape[1], image.shape[2], index)
    views = torch.empty((1 + len(boxes), 3, *preprocessing.size), dtype=torch.uint8)
    views[0] = preprocessing.fit(image)
    for view, (left, top, right, bottom) in zip(views[1:], boxes.tolist(), strict=True):
        view.copy_(preprocessing.fit(image[:, top:bottom, left:right]))
    return views


def read_image(
    source: ImageLike | BinaryIO,
    *,
    name: str | None = None,
    formats: tuple[str, ...] | None = None,
    max_pixels: int | None = None,
) -> Tensor:
    """Read a picture as the RGB a person sees: EXIF-turned, transparency on white, any mode or depth.

    Args:
        source: a path, an open file, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of floats in
            [0, 1].
        name: what errors call it; by default its path.
        formats: PIL's names of the file formats that are read; by default all that PIL knows.
        max_pixels: the most pixels that a file may unpack to; by default PIL's own limit.

    Returns:
        (3, H, W) uint8.

    Raises:
        InputError: the file is missing, is no picture, is broken, or is too large to be decoded safely.
    """
    if isinstance(source, np.ndarray):
        return _to_tensor(_from_array(source))
    called = f"picture {name or str(source)!r}" if name or isinstance(source, (str, Path)) else "the picture"
    try:
        if isinstance(source, Image.Image):
            return _to_tensor(source)
        with Image.open(source, formats=formats) as image:
            _check_pixels(called, image.size, max_pixels or Image.MAX_IMAGE_PIXELS)
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
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{called} cannot be read ({reason}); replace it or leave it out") from None


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
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_deep(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    # A writable copy: the buffer of a PIL image must not be shared with a tensor.
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    # The strided (channels-last) layout is the one torch resizes fastest.
    return pixels.permute(2, 0, 1)


def _from_deep(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float greyscale to 8 bits; PIL's own conversion clips them to white."""
    values = np.asarray(image).astype(np.float64)
    highest = values.max(initial=0)
    if image.mode == "F" and highest <= 1:
        white = 1.0
    else:
        white = 65535.0 if image.mode.startswith("I;16") or highest > 255 else 255.0
    return Image.fromarray((values.clip(0, white) / white * 255).round().astype(np.uint8))
