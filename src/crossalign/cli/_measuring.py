"""What commands that measure share: the dataset, its config, crop scales and descriptions from the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.datasets import ClassNames, ImageDataset
    from crossalign.datasets.configs import Config
    from crossalign.text.descriptions import Descriptions, Style


def class_names_option(default: str) -> Callable[[Any], Any]:
    """Make --class-names, which is None if it is not given."""
    return click.option(
        "--class-names",
        type=click.Choice(["ours", "published"]),
        help="ours: no two classes have the same name. published: the names in the programs of the papers "
        f"[default: {default}].",
    )


description_style_option = click.option(
    "--description-style",
    type=click.Choice(["sentences", "descriptors"]),
    help="Kind of the texts in --descriptions. sentences: used as they are. descriptors: added to the class name "
    "[default: guessed from the texts].",
)

crop_scale_option = click.option(
    "--crop-scale",
    help="Side of a view, as a share of the image's shorter side: released (0.1,0.9), written (0.5,0.9; Places365 0.7,0.9) "
    "or LOW,HIGH [default: from the config].",
)

allow_missing_option = click.option(
    "--allow-missing", is_flag=True, help="Use the plain prompt for classes that --descriptions lack."
)


@dataclass(frozen=True)
class DatasetOptions:
    """Which dataset is measured, with which encoder: the values of `dataset_options`."""

    dataset_name: str | None
    data_path: str | None
    config_name: str | None
    encoder: str | None
    limit: int | None
    class_names: ClassNames | None
    download: bool

    def config(self) -> Config:
        """Load the config that --dataset and --config name, with the encoder of --encoder.

        Raises:
            InputError: neither was given, or one is unknown.
        """
        from crossalign.datasets.configs import load_config

        if self.dataset_name is not None:
            config = load_config(self.dataset_name, self.config_name)
        elif self.config_name is not None:
            config = load_config(self.config_name)
        else:
            raise InputError("no dataset given; name one with --dataset (see `crossalign datasets`)")
        return config if self.encoder is None else replace(config, encoder=self.encoder)

    def open(self, config: Config, default_names: ClassNames = "ours") -> ImageDataset:
        """List the images of the dataset, and print how many there are.

        Args:
            config: the dataset's config.
            default_names: class names without --class-names.
        """
        from crossalign.datasets import load_dataset

        names = self.class_names or default_names
        dataset = load_dataset(config, self.data_path, download=self.download, names=names)
        if dataset.passed_over:
            click.echo(dataset.passed_over, err=True)
        if self.limit:
            dataset = dataset.limit(self.limit)
        click.echo(f"{dataset.name}: {len(dataset.paths)} images, {len(dataset.class_names)} classes", err=True)
        return dataset


dataset_options = common.option_group(
    "dataset_options",
    DatasetOptions,
    click.option("--dataset", "--dataset_name", "dataset_name", help="Name of the dataset; see `crossalign datasets`."),
    click.option("--data-path", "--data_path", type=click.Path(), help="Folder of the dataset [default: from the config]."),
    click.option(
        "--config",
        "config_name",
        help="YAML file, or name of a bundled config, with class names, prompts and settings "
        "[default: the config of the dataset].",
    ),
    click.option("--encoder", help="See `crossalign encoders` [default: from the config]."),
    click.option("--limit", type=click.IntRange(1), help="Use only so many images, spread evenly over the dataset."),
    class_names_option("ours; published with `evaluate --protocol released`"),
    click.option("--download", is_flag=True, help="Download the dataset first, if torchvision can."),
)
"""Gives the command a `DatasetOptions` as its argument `dataset_options`."""


def read_crop_scale(text: str, config: Config) -> tuple[float, float]:
    """Read "released", "written" or two shares such as "0.1,0.9".

    Raises:
        InputError: it is something else.
    """
    from crossalign.images.crop_scale import check_crop_scale

    if text in ("released", "written"):
        return config.crop_scale if text == "released" else config.crop_scale_written
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--crop-scale is {text!r}, but must be released, written or two shares such as 0.1,0.9") from None
    check_crop_scale((low, high))
    return low, high


def read_descriptions(config: Config, files: Sequence[str], style: Style | None = None) -> list[Descriptions]:
    """Load the given files; without files, the dataset's descriptions in this package, if it has any."""
    from crossalign.text.descriptions import bundled_descriptions, bundled_names, load_descriptions

    if files:
        return [load_descriptions(file, style) for file in files]
    if style:
        raise InputError("--description-style needs --descriptions; add a file, or omit --description-style")
    return [bundled_descriptions(config.descriptions)] if config.descriptions in bundled_names() else []


def styled_descriptions(name: str | None, style: Style | None) -> str | Descriptions | None:
    """Return descriptions as a classifier takes them.

    Args:
        name: file, name of bundled descriptions, or none.
        style: style of the file's texts; None leaves the choice to the classifier.

    Returns:
        `name` without a style, otherwise the loaded file.

    Raises:
        InputError: a style without a file, or the file cannot be read.
    """
    from crossalign.text.descriptions import bundled_names, load_descriptions
    from crossalign.text.descriptions.choosing import is_none

    if style is None:
        return name
    if name is None or is_none(name) or (name in bundled_names() and not Path(name).exists()):
        raise InputError("--description-style needs a file in --descriptions; add it, or omit --description-style")
    return load_descriptions(name, style)
