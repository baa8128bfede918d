"""Arrays, tensors and deep greyscale images to images of 8 bits per channel; no value is clipped."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from crossalign.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras, microscopes and scanners store in 16."""
FAINT = 16
"""Floats whose highest value is between 1 and this fit neither 0 to 1 nor 0 to 255."""


def image_of_array(array: Array) -> Image.Image:
    """Turn (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16 or floats in [0, 1] into an image of 8 bits.

    Raises:
        InputError: another shape or type, or values out of range.
    """
    shape = tuple(array.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4)) or 0 in shape:
        raise InputError(f"an array of shape {shape} is no image; give (H, W), (H, W, 3) or (H, W, 4){_hint(shape)}")
    if array.dtype.kind == "f":
        levels = _of_floats(array, "an array")
    elif array.dtype == np.uint16:
        highest = int(array.max())
        levels = _scaled(array, _white(highest, 16, None))
    elif array.dtype == np.uint8:
        levels = array
    else:
        raise InputError(f"an array of {array.dtype} is no image; give uint8, uint16 or floats in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(levels))


def image_of_tensor(tensor: Tensor) -> Image.Image:
    """Turn a tensor (1, H, W), (3, H, W) or (4, H, W), or (H, W), as torchvision lays it out, into an image of 8 bits.

    Raises:
        InputError: another shape or type, or values out of range.
    """
    shape = tuple(tensor.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3, 4)) or 0 in shape:
        raise InputError(f"a tensor of shape {shape} is no image; give (3, H, W), channels first{_hint(shape)}")
    array = tensor.detach().cpu()
    if tensor.is_floating_point():
        array = array.double()  # NumPy has no bfloat16.
    if len(shape) == 3:
        array = array[0] if shape[0] == 1 else array.permute(1, 2, 0)
    return image_of_array(array.numpy())


def image_of_deep(image: Image.Image, called: str, bits: int | None = None) -> Image.Image:
    """Bring greyscale of 16 bits, 32 bits or floats to 8 bits; PIL's own conversion clips it to white.

    Args:
        image: of mode I;16, I or F.
        called: what errors call it.
        bits: how many bits of each value count, if the file says so.

    Raises:
        InputError: the values fit no range.
    """
    values = np.asarray(image).astype(np.float64)
    highest = values[np.isfinite(values)].max(initial=0)
    values = np.nan_to_num(values, nan=0, posinf=highest, neginf=0)
    lowest = values.min(initial=0)
    if lowest < 0 or highest > 65535 or (1.002 < highest < FAINT and image.mode == "F"):
        raise InputError(
            f"{called} cannot be read (its values are from {lowest:g} to {highest:g}, which is no range of grey); "
            "save it with 8 or 16 bits"
        )
    if image.mode == "F" and highest <= 1.002:
        return Image.fromarray(_of_floats(values, called))
    return Image.fromarray(_scaled(values, _white(int(np.ceil(highest)), 16 if image.mode.startswith("I;16") else 8, bits)))


def warn_of_faint_colours(pixels: Tensor) -> None:
    """Warn of colours of 16 bits whose upper two bits are empty: PIL keeps the upper eight alone, so that they are dark."""
    if 0 < int(pixels.max()) < 64:
        warnings.warn(
            "an image of 16 bits per colour uses 14 of them at most and is read nearly black; convert such images to 8 bits",
            stacklevel=2,
        )


def _of_floats(array: Array, what: str) -> Array:
    if not np.isfinite(array).all():
        raise InputError(f"{what} with values that are no numbers is no image; replace NaN and infinity")
    # A value that only rounds out of [0, 1] is taken, since it gives the same level.
    levels = np.round(array.astype(np.float64) * 255)
    low, high = float(array.min()), float(array.max())
    if levels.min() < 0 or levels.max() > 255:
        hint = "divide it by 255" if low >= 0 and 1 < high <= 255 else "undo its normalisation"
        raise InputError(f"{what} of floats from {low:g} to {high:g} is no image; give floats in [0, 1] ({hint}), or uint8")
    return levels.astype(np.uint8)


def _scaled(values: Array, white: int) -> Array:
    return np.round(values.astype(np.float64) * (255 / white)).astype(np.uint8)


def _white(highest: int, usual: int, declared: int | None) -> int:
    """Find the value of white: what the file declares, else of the fewest bits that cameras use and that hold all values.

    A warning says so unless these are the usual bits; its text names no image, so that a thousand images warn once.
    """
    if declared is not None and highest < 2**declared:
        return (1 << declared) - 1
    bits = next((depth for depth in DEPTHS if highest < 2**depth), 16)
    if bits not in (usual, 16) and highest > 0:
        warnings.warn(
            f"an image of 16 bits per channel has no value above {2**bits - 1} and is read as {bits} bits; "
            "convert such images to 8 bits to choose their white yourself",
            stacklevel=2,
        )
    return (1 << bits) - 1


def _hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return f"; for {shape[0]} images give a list of them"
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        return "; drop the axis of length 1"
    if len(shape) == 3 and (shape[0] in (3, 4) or shape[2] in (3, 4)):
        return "; move its channels to the other end"
    return ""
