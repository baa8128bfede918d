"""The preprocessing of an image processor of the transformers library, as a `Preprocessing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from crossalign.errors import InputError
from crossalign.images.crops import Preprocessing

INTERPOLATIONS = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers for the filters that torch has too."""


def preprocessing_of(processor: Any, spec: str) -> Preprocessing:
    """Map an image processor's settings.

    Args:
        processor: of the transformers library.
        spec: of the encoder, for errors.

    Raises:
        InputError: it does something that `Preprocessing` cannot express, such as NaFlex's patches.
    """
    settings: Mapping[str, Any] = processor.to_dict()
    kind = type(processor).__name__
    if list(processor.model_input_names) != ["pixel_values"]:
        inputs = ", ".join(processor.model_input_names)
        raise InputError(
            f"{spec} takes images as {inputs} ({kind}), such as patches of any number (NaFlex); take a model of fixed "
            "resolution"
        )
    if not settings.get("do_resize", True):
        raise _refused(spec, kind, "it does not resize", "do_resize")
    if settings.get("do_pad"):
        raise _refused(spec, kind, "it pads images", "do_pad")
    interpolation = INTERPOLATIONS.get(int(settings["resample"]))
    if interpolation is None:
        raise _refused(spec, kind, f"its filter {settings['resample']!r} is not nearest, bilinear or bicubic", "resample")
    resize, resized = _resizing(settings, spec, kind)
    size = _crop(settings, resized)
    if size[0] > resized[0] or size[1] > resized[1]:
        raise _refused(spec, kind, f"it crops {size} out of {resized}", "crop_size")
    mean, std = _normalisation(settings)
    larger = None if size == resized else resized
    return Preprocessing(size, mean, std, interpolation, resize, resized=larger, half_pixel="down")


def _resizing(settings: Mapping[str, Any], spec: str, kind: str) -> tuple[Literal["shortest", "squash"], tuple[int, int]]:
    size = settings["size"]
    if set(size) == {"height", "width"}:
        return "squash", (int(size["height"]), int(size["width"]))
    if set(size) == {"shortest_edge"} and settings.get("do_center_crop"):
        return "shortest", (int(size["shortest_edge"]),) * 2
    raise _refused(spec, kind, f"its images are of no fixed size ({dict(size)})", "size")


def _crop(settings: Mapping[str, Any], resized: tuple[int, int]) -> tuple[int, int]:
    if not settings.get("do_center_crop"):
        return resized
    crop = settings["crop_size"]
    return int(crop["height"]), int(crop["width"])


def _normalisation(settings: Mapping[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Give mean and deviation of values in [0, 1] that do what rescaling, its offset and normalisation do together."""
    scale = 255 * float(settings["rescale_factor"]) if settings.get("do_rescale", True) else 255.0
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if settings.get("do_normalize", True):
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    # EfficientNet's processor divides once more for its classifier.
    again = tuple(settings["image_std"]) if settings.get("include_top") else (1.0,) * 3
    means = [(m + offset) / scale for m in mean]
    stds = [s * t / scale for s, t in zip(std, again, strict=True)]
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _refused(spec: str, kind: str, why: str, setting: str) -> InputError:
    return InputError(
        f"the preprocessing of {spec} cannot be computed here: {why} ({setting} of its {kind}); take another model"
    )
