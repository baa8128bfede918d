"""What verbs that measure on a dataset share: its config, crop scales and descriptions from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.configs import Config
    from crossalign.descriptions import Descriptions


def dataset_config(dataset: str | None, measured_as: str | None) -> Config:
    """Load the config that --dataset and --config name.

    Raises:
        InputError: neither was given, or one is unknown.
    """
    from crossalign.configs import load_config

    if dataset is None and measured_as is None:
        raise InputError("no dataset given; name one with --dataset (see `crossalign datasets`)")
    return load_config(str(measured_as)) if dataset is None else load_config(dataset, measured_as)


def read_crop_scale(text: str, config: Config) -> tuple[float, float]:
    """Read "released", "written" or two shares such as "0.1,0.9".

    Raises:
        InputError: it is something else.
    """
    from crossalign.configs import check_crop_scale

    if text in ("released", "written"):
        return (0.1, 0.9) if text == "released" else config.crop_scale_written
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--crop-scale is {text!r}, but must be released, written or two shares such as 0.1,0.9") from None
    check_crop_scale((low, high))
    return low, high


def read_descriptions(config: Config, files: Sequence[str]) -> list[Descriptions]:
    """Load the given files, or else those that ship with the package, if the dataset has any."""
    from crossalign.descriptions import bundled_descriptions, bundled_names, load_descriptions

    if files:
        return [load_descriptions(file) for file in files]
    return [bundled_descriptions(config.descriptions)] if config.descriptions in bundled_names() else []
