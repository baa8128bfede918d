"""Find the datasets and descriptions of the grid, and say where missing ones are published."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from crossalign.datasets import ClassNames, ImageDataset, classes_of, load_dataset
from crossalign.datasets.configs import ALIASES, Config
from crossalign.datasets.layouts.torchvision import IMAGE_FOLDERS
from crossalign.errors import InputError
from crossalign.text.descriptions import Descriptions, Style, bundled_descriptions, load_descriptions
from crossalign.text.prompts import PromptInputs, prompt_inputs


def find_dataset(config: Config, data_root: Path, names: ClassNames = "published") -> ImageDataset | None:
    """Load a dataset from DATA_ROOT/NAME, or from DATA_ROOT if its published tree lies there; None if it is in neither.

    Class names are the published ones by default, since the published figures were taken with them.

    Raises:
        InputError: DATA_ROOT/NAME is there, but is not the dataset's tree.
    """
    own = data_root / config.name
    if own.exists():
        return load_dataset(config, own, names=names)
    kind = (config.torchvision or {}).get("class", "")
    signs = [*config.subfolders, *([IMAGE_FOLDERS[kind]] if config.layout == "torchvision" else [])]
    if not any((data_root / sign).exists() for sign in signs):
        return None
    try:
        return load_dataset(config, data_root, names=names)
    except InputError:
        # Several datasets have folders with names such as "val": this one belongs to another dataset.
        return None


def how_to_get(config: Config, data_root: Path) -> str:
    """Say in one sentence how a missing dataset is fetched."""
    folder = str(data_root / config.name)
    if config.torchvision is None:
        return f"{config.name} ({config.title}): unpack it into {folder!r}; it is published at {config.url}"
    command = ["crossalign", "evaluate", "--dataset", config.name, "--data-path", folder, "--download"]
    fetch = shlex.join([*command, "--encoder", "builtin", "--methods", "clip", "--limit", "1"])
    return f"{config.name} ({config.title}): fetch it with `{fetch}`, or from {config.url} into {folder!r}"


def find_descriptions(config: Config, given: Sequence[Path], style: Style | None = None) -> list[Descriptions]:
    """Load a dataset's descriptions: the given files that bear its name, in given folders or one folder below; else those
    that ship with the package.

    A file is named NAME.json, or NAME-clip-d.json and NAME-cupl.json as in WCA's release, which come first.

    Args:
        config: the dataset's.
        given: files and folders.
        style: what the files' texts are, whatever they state.

    Raises:
        InputError: a file holds something else.
    """
    files = [file for path in given for file in _named(path, config)]
    return [load_descriptions(file, style) for file in files] or [bundled_descriptions(config.descriptions)]


def released_prompts(config: Config, given: Sequence[Path], seed: int = 0) -> PromptInputs:
    """Gather what the prompts of the released programs are made of, without a dataset's images.

    Class names are the published ones, and descriptions are taken as they stand; `prompts.SOURCES` makes the prompts.

    Args:
        config: a dataset's that has a class list.
        given: files and folders of descriptions, as for `find_descriptions`.
        seed: of random descriptors and choices.

    Raises:
        InputError: a file lacks a class or holds something else.
    """
    classes = classes_of(config)
    return prompt_inputs(
        classes.published,
        classes.aliases,
        find_descriptions(config, given),
        templates=config.templates,
        domain=config.domain,
        seed=seed,
        as_published=True,
        descriptor_names=classes.before_descriptors,
    )


def check_descriptions(given: Sequence[Path], configs: Sequence[Config]) -> None:
    """Make sure that each given file or folder is there and meant for one of the datasets.

    Raises:
        InputError: it isn't.
    """
    for path in given:
        if not path.exists():
            raise InputError(f"descriptions {str(path)!r} do not exist; give a folder or files of {{class: [text]}}")
        if not any(_named(path, config) for config in configs):
            wanted = " or ".join(sorted({f"{name}.json" for config in configs for name in _file_names(config)}))
            raise InputError(f"descriptions {str(path)!r} are for none of the datasets asked; name the file {wanted}")


def _named(path: Path, config: Config) -> list[Path]:
    """List the files that bear a dataset's name, those of WCA's release first."""
    stems = [stem for name in _file_names(config) for stem in (f"{name}-clip-d", f"{name}-cupl", name)]
    stems.sort(key=lambda stem: stem in _file_names(config))
    files = [path]
    if path.is_dir():
        files = sorted([*path.glob("*.json"), *path.glob("*/*.json")])
    return [file for stem in stems for file in files if file.name == f"{stem}.json"]


def _file_names(config: Config) -> list[str]:
    """List what description files of a dataset may be called."""
    others = (name for name, bundled in ALIASES.items() if bundled == config.name)
    return list(dict.fromkeys(name for name in (config.name, config.descriptions, *others) if name))
