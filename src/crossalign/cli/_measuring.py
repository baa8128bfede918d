"""What commands share that measure: which dataset, its config, crop scales and descriptions from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.datasets import ClassNames, ImageDataset
    from crossalign.datasets.configs import Config
    from crossalign.text.descriptions import Descriptions, Style

class_names_option = click.option(
    "--class-names",
    type=click.Choice(["ours", "published"]),
    help="ours: all classes have different names; published: as the papers' programs name them "
    "[default: ours; published under the protocol released].",
)

description_style_option = click.option(
    "--description-style",
    type=click.Choice(["sentences", "descriptors"]),
    help="What the texts of --descriptions are: prompts as they stand, or put behind the class name [default: guessed].",
)

dataset_options = common.options(
    click.option("--dataset", "--dataset_name", "dataset_name", help="See `crossalign datasets`."),
    click.option("--data-path", "--data_path", type=click.Path(), help="The dataset's folder [default: the config's]."),
    click.option("--config", "config_name", help="A YAML file or a bundled config's name [default: the dataset's]."),
    click.option("--encoder", help="See `crossalign encoders` [default: the config's]."),
    click.option("--limit", type=click.IntRange(1), help="Only that many pictures, spread evenly over the dataset."),
    class_names_option,
    click.option("--download", is_flag=True, help="Fetch the dataset first, where torchvision can."),
)
"""What names a dataset and how it is read."""


def open_dataset(config: Config, options: Mapping[str, Any]) -> ImageDataset:
    """Read the list of the pictures that `dataset_options` name, and say how many they are."""
    from crossalign.datasets import load_dataset

    names: ClassNames = options["class_names"] or "ours"
    dataset = load_dataset(config, options["data_path"], download=options["download"], names=names)
    if dataset.passed_over:
        click.echo(dataset.passed_over, err=True)
    if options["limit"]:
        dataset = dataset.limit(options["limit"])
    click.echo(f"{dataset.name}: {len(dataset.paths)} pictures, {len(dataset.class_names)} classes", err=True)
    return dataset


def dataset_config(dataset: str | None, measured_as: str | None) -> Config:
    """Load the config that --dataset and --config name.

    Raises:
        InputError: neither was given, or one is unknown.
    """
    from crossalign.datasets.configs import load_config

    if dataset is None and measured_as is None:
        raise InputError("no dataset given; name one with --dataset (see `crossalign datasets`)")
    return load_config(str(measured_as)) if dataset is None else load_config(dataset, measured_as)


def read_crop_scale(text: str, config: Config) -> tuple[float, float]:
    """Read "released", "written" or two shares such as "0.1,0.9".

    Raises:
        InputError: it is something else.
    """
    from crossalign.datasets.configs import check_crop_scale

    if text in ("released", "written"):
        return config.crop_scale if text == "released" else config.crop_scale_written
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--crop-scale is {text!r}, but must be released, written or two shares such as 0.1,0.9") from None
    check_crop_scale((low, high))
    return low, high


def read_descriptions(config: Config, files: Sequence[str], style: Style | None = None) -> list[Descriptions]:
    """Load the given files, or else those that ship with the package, if the dataset has any."""
    from crossalign.text.descriptions import bundled_descriptions, bundled_names, load_descriptions

    if files:
        return [load_descriptions(file, style) for file in files]
    if style:
        raise InputError("--description-style says what the texts of --descriptions are; give these, or leave it out")
    return [bundled_descriptions(config.descriptions)] if config.descriptions in bundled_names() else []


def styled_descriptions(given: str | None, style: Style | None) -> str | Descriptions | None:
    """Give what a classifier takes as descriptions: the file or bundled name as given, or the file read in a style.

    Raises:
        InputError: there is no file that a style could be of, or it cannot be read.
    """
    from crossalign.text.descriptions import bundled_names, load_descriptions

    if style is None:
        return given
    if given is None or (given in bundled_names() and not Path(given).exists()):
        raise InputError("--description-style says what the texts of a --descriptions file are; give one, or leave it out")
    return load_descriptions(given, style)
