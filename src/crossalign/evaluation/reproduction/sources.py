"""Which of the grid's datasets and descriptions are there, and where the others are to be had."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crossalign.datasets import ImageDataset, classes_of, load_dataset
from crossalign.datasets.configs import Config
from crossalign.datasets.layouts.torchvision import PICTURES
from crossalign.errors import InputError
from crossalign.text.descriptions import Descriptions, bundled_descriptions, load_descriptions


def find_dataset(config: Config, data_root: Path) -> ImageDataset | None:
    """Load a dataset from DATA_ROOT/NAME, or from DATA_ROOT if its published tree lies there; None if it is in neither.

    Class names are the published ones where the dataset has two lists, as the published figures were taken with them.

    Raises:
        InputError: DATA_ROOT/NAME is there, but is not the dataset's tree.
    """
    own = data_root / config.name
    if own.exists():
        return _load(config, own)
    kind = (config.torchvision or {}).get("class", "")
    signs = [*config.subfolders, *([PICTURES[kind]] if config.layout == "torchvision" else [])]
    if not any((data_root / sign).exists() for sign in signs):
        return None
    try:
        return _load(config, data_root)
    except InputError:
        # Folders such as "val" are named alike in several datasets: that one was another's.
        return None


def _load(config: Config, root: Path) -> ImageDataset:
    if config.classes == "imagenet":
        return load_dataset(config, root)
    dataset = load_dataset(config, root, names="published")
    # The bundled descriptions are filed under the tidy names.
    tidy = classes_of(config).names
    aliases = ((*others, name) for others, name in zip(dataset.aliases, tidy, strict=True))
    return replace(dataset, aliases=tuple(aliases))


def how_to_get(config: Config, data_root: Path) -> str:
    """Say in one sentence how a missing dataset is fetched."""
    folder = str(data_root / config.name)
    if config.torchvision is None:
        return f"{config.name} ({config.title}): unpack it into {folder!r}; it is published at {config.url}"
    command = ["crossalign", "evaluate", "--dataset", config.name, "--data-path", folder, "--download"]
    fetch = shlex.join([*command, "--encoder", "builtin", "--methods", "clip", "--limit", "1"])
    return f"{config.name} ({config.title}): fetch it with `{fetch}`, or from {config.url} into {folder!r}"


def find_descriptions(config: Config, given: Sequence[Path]) -> list[Descriptions]:
    """Load a dataset's descriptions: the given files that bear its name, in given folders or one folder below; else those
    that ship with the package.

    Raises:
        InputError: a file holds something else.
    """
    wanted = list(dict.fromkeys((config.name, config.descriptions)))
    files = [file for path in given for name in wanted for file in _named(path, name)]
    return [load_descriptions(file) for file in files] or [bundled_descriptions(config.descriptions)]


def check_descriptions(given: Sequence[Path], configs: Sequence[Config]) -> None:
    """Make sure that each given file or folder is there and meant for one of the datasets.

    Raises:
        InputError: it isn't.
    """
    names = sorted({name for config in configs for name in (config.name, config.descriptions)})
    for path in given:
        if not path.exists():
            raise InputError(f"descriptions {str(path)!r} do not exist; give a folder or files of {{class: [text]}}")
        if not any(_named(path, name) for name in names):
            wanted = " or ".join(f"{name}.json" for name in names)
            raise InputError(f"descriptions {str(path)!r} are for none of the datasets asked; name the file {wanted}")


def _named(path: Path, name: str) -> list[Path]:
    if path.is_dir():
        return sorted([*path.glob(f"{name}.json"), *path.glob(f"*/{name}.json")])
    return [path] if path.name == f"{name}.json" else []
