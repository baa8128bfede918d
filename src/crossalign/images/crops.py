"""Views: boxes in an image, and the pixels inside them in the encoder's input format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossalign.errors import InputError
from crossalign.images.crop_scale import check_crop_scale
from crossalign.images.resample import KERNELS, resample

LONGEST = 32
"""The longer side over the shorter, up to which all of an image is resized."""
Boxes = np.ndarray[Any, np.dtype[np.int64]]
"""(M, 4) pixels, each (left, top, right, bottom)."""


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder wants its pixels. It belongs to the encoder, so that nobody can pair the wrong ones.

    Attributes:
        size: (height, width) of the input in pixels.
        mean, std: per channel, of values in [0, 1].
        interpolation: of the resize, always with antialiasing.
        resize: "shortest" scales the shorter side to the input and crops the centre (CLIP), "squash" ignores the aspect
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
        """Resize a (3, H, W) uint8 image to (3, *size) uint8, as the encoder's own transform does."""
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
            # Only the centre is used: resizing all of a thin strip would take gigabytes.
            image = _centre(image, [min(side, LONGEST * shorter) for side in image.shape[1:]])
        # Sizes are rounded down, as torchvision's Resize does.
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
    """Crop the centre of (3, H, W)."""
    left_over = [length - part for length, part in zip(image.shape[1:], size, strict=True)]
    top, left = (pixels // 2 if down else round(pixels / 2) for pixels in left_over)
    return image[:, top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class Views:
    """Where the M local views of an image lie.

    Attributes:
        boxes: (M, 4) pixels.
        flips: (M,) whether a view is mirrored, left to right.
    """

    boxes: Boxes
    flips: np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class ViewRecipe:
    """Square crops at random places, as WCA takes them; BiFTA leaves out those that overlap too much.

    Attributes:
        count: M, the number of local views; the global view always comes on top of them.
        crop_scale: (lo, hi), the side as a share of the image's shorter side; uniform between the two.
        seed: with an image's index it fixes the image's boxes.
        candidates: how many squares are placed to choose from; 0 places `count` and takes all.
        max_iou: the largest intersection over union of a square with one chosen before it. With less than 1, an image may
            have fewer than `count` squares.
    """

    count: int
    crop_scale: tuple[float, float]
    seed: int
    candidates: int = 0
    max_iou: float = 1.0

    interpolation = None
    """Crops are resized as the encoder resizes."""

    def __post_init__(self) -> None:
        check_crop_scale(self.crop_scale)
        _check_counts(self.count, self.seed)
        if not 0 < self.max_iou <= 1:
            raise InputError(f"max_iou is {self.max_iou:g}, but must be above 0 and at most 1")

    @property
    def key(self) -> dict[str, Any]:
        """What the features depend on."""
        return {"kind": "squares"} | asdict(self)

    @property
    def varies(self) -> bool:
        """Whether images may have different numbers of views."""
        return self.max_iou < 1

    def __str__(self) -> str:
        """Say in words which views these are."""
        chosen = f" of {self.candidates}, IoU <= {self.max_iou:g}" if self.max_iou < 1 else ""
        return f"{self.count} squares {self.crop_scale[0]:g} to {self.crop_scale[1]:g}{chosen}"

    def views(self, height: int, width: int, index: int = 0) -> Views:
        """Place the views of image number `index`."""
        boxes = self.boxes(height, width, index)
        return Views(boxes, np.zeros(len(boxes), dtype=np.bool_))

    def boxes(self, height: int, width: int, index: int = 0) -> Boxes:
        """Place the boxes of image number `index`: (M, 4), or fewer where `max_iou` leaves fewer.

        Squares of side u * min(H, W), u ~ U(lo, hi), at least one pixel, at a uniformly random place inside the image. Each
        image has its own generator, so the boxes depend on nothing but (seed, index) and the image's size.
        """
        # Three numbers per box, so that the boxes of a shorter list begin a longer one.
        boxes = self.place(_generator(self.seed, index).random((self.candidates or self.count, 3)), height, width)
        return boxes if self.max_iou >= 1 else boxes[distinct(boxes, self.max_iou, self.count)]

    def place(self, numbers: np.ndarray[Any, np.dtype[np.float64]], height: int, width: int) -> Boxes:
        """Turn numbers in [0, 1), (M, 3) for side, left and top, into boxes (M, 4) in an image of that size."""
        share, x, y = numbers.T
        low, high = self.crop_scale
        side = np.maximum((low + (high - low) * share) * min(height, width), 1).astype(np.int64)
        left, top = (x * (width - side + 1)).astype(np.int64), (y * (height - side + 1)).astype(np.int64)
        return np.stack([left, top, left + side, top + side], axis=1)


@dataclass(frozen=True)
class ResizedCropRecipe:
    """Random resized crops with random flips: the views of ZERO, MTA and AWT.

    The area is a share U(0.08, 1) of the image's, the logarithm of width / height is uniform between those of 3/4 and 4/3,
    half of the views are flipped, and all are resized bilinearly to the encoder's input, whatever their aspect: what
    torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` do, with generators of our own.

    Attributes:
        count: M, the number of local views; the global view always comes on top of them.
        seed: with an image's index it fixes the image's views.
    """

    count: int
    seed: int

    interpolation = "bilinear"
    """As in the authors' programs, whatever the encoder's own is."""
    varies = False
    """All images have `count` views."""

    def __post_init__(self) -> None:
        _check_counts(self.count, self.seed)

    @property
    def key(self) -> dict[str, Any]:
        """What the features depend on."""
        return {"kind": "resized-crops"} | asdict(self)

    def __str__(self) -> str:
        """Say in words which views these are."""
        return f"{self.count} random resized crops"

    def views(self, height: int, width: int, index: int = 0) -> Views:
        """Place the views of image number `index`; those of a shorter list begin a longer one."""
        numbers = _generator(self.seed, index).random((self.count, 2 * CROP_TRIES + 3))
        return Views(place_resized_crops(numbers[:, 1:], height, width), numbers[:, 0] < 0.5)


Recipe = ViewRecipe | ResizedCropRecipe
"""Which local views are taken of an image."""
CROP_AREA, CROP_ASPECT, CROP_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of `torchvision.transforms.RandomResizedCrop`, by default."""


def place_resized_crops(numbers: np.ndarray[Any, np.dtype[np.float64]], height: int, width: int) -> Boxes:
    """Turn numbers in [0, 1), (M, 2 * CROP_TRIES + 2), into boxes (M, 4) as `RandomResizedCrop` chooses them.

    The first pair of (area, aspect) whose crop fits into the image is taken; where none of CROP_TRIES fits, the largest
    centred crop whose aspect is allowed.
    """
    area, log_aspect = numbers[:, :CROP_TRIES], numbers[:, CROP_TRIES : 2 * CROP_TRIES]
    area = height * width * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area)
    low, high = np.log(CROP_ASPECT)
    aspect = np.exp(low + (high - low) * log_aspect)
    widths, heights = np.rint(np.sqrt(area * aspect)).astype(int), np.rint(np.sqrt(area / aspect)).astype(int)
    fits = (widths > 0) & (heights > 0) & (widths <= width) & (heights <= height)
    first = (np.arange(len(numbers)), fits.argmax(1))
    own_width, own_height = widths[first], heights[first]
    left = (numbers[:, -2] * (width - own_width + 1)).astype(int)
    top = (numbers[:, -1] * (height - own_height + 1)).astype(int)
    if not (fitted := fits.any(1)).all():
        aspect_ratio = width / height
        limited = min(max(aspect_ratio, CROP_ASPECT[0]), CROP_ASPECT[1])
        centred = (round(height * limited), height) if limited < aspect_ratio else (width, round(width / limited))
        centred = (width, height) if limited == aspect_ratio else centred
        own_width, own_height = np.where(fitted, own_width, centred[0]), np.where(fitted, own_height, centred[1])
        left = np.where(fitted, left, (width - centred[0]) // 2)
        top = np.where(fitted, top, (height - centred[1]) // 2)
    return np.stack([left, top, left + own_width, top + own_height], axis=1).astype(np.int64)


def distinct(boxes: Boxes, max_iou: float, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Choose boxes (M, 4), in order, that overlap none chosen before by more than `max_iou`: at most `most` of their rows.

    Source: BiFTA, TMLR 2026, arXiv 2601.20419, its filter of crops.
    """
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    near = shared > max_iou * (areas[:, None] + areas - shared)
    chosen: list[int] = []
    for row in range(len(boxes)):
        if len(chosen) == most:
            break
        if not near[row, chosen].any():
            chosen.append(row)
    return np.array(chosen, dtype=np.int64)


def crop_views(image: Tensor, recipe: Recipe, preprocessing: Preprocessing, index: int = 0) -> Tensor:
    """Crop an image's views: (3, H, W) uint8 to (1 + M, 3, *size) uint8, the global view first."""
    placed = recipe.views(image.shape[1], image.shape[2], index)
    views = torch.empty((1 + len(placed.boxes), 3, *preprocessing.size), dtype=torch.uint8, device=image.device)
    views[0] = preprocessing.fit(image)
    crop_boxes(image, placed.boxes, preprocessing, out=views[1:], interpolation=recipe.interpolation)
    if placed.flips.any():
        flipped = 1 + np.flatnonzero(placed.flips)
        views[flipped] = views[flipped].flip(-1)
    return views


def crop_boxes(
    image: Tensor,
    boxes: Boxes,
    preprocessing: Preprocessing,
    out: Tensor | None = None,
    interpolation: str | None = None,
) -> Tensor:
    """Crop boxes (M, 4) out of a (3, H, W) uint8 image: (M, 3, *size) uint8, into `out` if given.

    With an interpolation of their own, crops are squashed to the encoder's size by it; else they are resized as the
    encoder resizes.
    """
    height, width = preprocessing.size
    views = torch.empty((len(boxes), 3, height, width), dtype=torch.uint8, device=image.device) if out is None else out
    kernel = interpolation or preprocessing.interpolation
    to_the_square = height == width and (interpolation is not None or preprocessing.resized is None)
    if image.device.type != "cpu" and to_the_square and kernel in KERNELS:
        return views.copy_(resample(image, boxes, height, kernel))
    for view, (left, top, right, bottom) in zip(views, boxes.tolist(), strict=True):
        crop = image[:, top:bottom, left:right]
        view.copy_(_resize(crop, [height, width], interpolation) if interpolation else preprocessing.fit(crop))
    return views


def _check_counts(count: int, seed: int) -> None:
    if seed < 0:
        raise InputError(f"the seed is {seed}, but must not be negative")
    if count < 0:
        raise InputError(f"the number of views is {count}, but must not be negative")


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
