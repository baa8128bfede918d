"""Where to look, and what is seen there: boxes, and the pixels inside them in the encoder's input format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.datasets.configs import check_crop_scale
from crossalign.errors import InputError
from crossalign.images.resample import KERNELS, resample

LONGEST = 32
"""The longer side over the shorter, up to which a picture is resized whole."""
Decoder = Literal["pil", "nvjpeg"]
"""What unpacks JPEG files: PIL, or a CUDA GPU."""


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its pixels. It belongs to the encoder, so that nobody can pair the wrong ones.

    Attributes:
        size: (height, width) of the input in pixels.
        mean, std: per channel, of values in [0, 1].
        interpolation: of the resize, always with antialiasing.
        resize: "shortest" scales the shorter side to the input and cuts the centre (CLIP), "squash" ignores the aspect
            (SigLIP), "longest" fits the longer side and pads with `fill`.
        resized: (height, width) that the image is resized to before its centre is cropped, if that is larger than the input.
        half_pixel: where the centre crop begins if an odd number of pixels is left over: half of it, rounded to the even
            number (torchvision) or down (transformers).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: Literal["shortest", "squash", "longest"] = "shortest"
    fill: int = 0
    resized: tuple[int, int] | None = None
    half_pixel: Literal["even", "down"] = "even"

    def fit(self, image: Tensor) -> Tensor:
        """Resize a (3, H, W) uint8 picture to (3, *size) uint8, as the encoder's own transform does."""
        height, width = self.resized or self.size
        if self.resize == "squash":
            return self._centre(_resize(image, [height, width], self.interpolation))
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
        return self._centre(_resize(image, target, self.interpolation))

    def _centre(self, image: Tensor) -> Tensor:
        return _centre(image, self.size, down=self.half_pixel == "down")

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (B, 3, H, W) pixels, uint8 in 0..255 or float in 0..1, into the encoder's float input."""
        mean, std = (torch.tensor(of, device=pixels.device).view(3, 1, 1) for of in (self.mean, self.std))
        return normalised(pixels, mean, std)


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise (B, 3, H, W) pixels, uint8 in 0..255 or float in 0..1, by (3, 1, 1) mean and deviation of values in 0..1."""
    scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
    return (pixels.float() - mean * scale) / (std * scale)


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


def _centre(image: Tensor, size: Sequence[int], down: bool = False) -> Tensor:
    """Cut the middle out of (3, H, W)."""
    left_over = [length - part for length, part in zip(image.shape[1:], size, strict=True)]
    top, left = (pixels // 2 if down else round(pixels / 2) for pixels in left_over)
    return image[:, top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class ViewRecipe:
    """Which local views are taken of a picture.

    Attributes:
        count: M, the number of local views; the whole image always comes on top of them.
        crop_scale: (lo, hi), a crop's side as a share of the picture's shorter side; uniform between the two.
        seed: with a picture's index it fixes the picture's boxes.
        decoder: what unpacks the JPEGs of a dataset; see `unpacking`.
    """

    count: int
    crop_scale: tuple[float, float]
    seed: int
    decoder: Decoder = "pil"

    def __post_init__(self) -> None:
        check_crop_scale(self.crop_scale)
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}, but must not be negative")
        if self.count < 0:
            raise InputError(f"the number of views is {self.count}, but must not be negative")
        if self.decoder not in get_args(Decoder):
            raise InputError(f"decoder {self.decoder!r} is unknown; take {' or '.join(get_args(Decoder))}")

    @property
    def key(self) -> dict[str, Any]:
        """All that features depend on; of PIL nothing is said, as before there was a choice, so that those are found."""
        key = asdict(self)
        if self.decoder == "pil":
            del key["decoder"]
        return key

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
    alike = height == width and preprocessing.resized is None and preprocessing.interpolation in KERNELS
    if image.device.type != "cpu" and alike:
        return views.copy_(resample(image, boxes, height, preprocessing.interpolation))
    for view, (left, top, right, bottom) in zip(views, boxes.tolist(), strict=True):
        view.copy_(preprocessing.fit(image[:, top:bottom, left:right]))
    return views
