"""Class names from folders: without sorting numbers and ids; folders of splits such as train are refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossalign.datasets.class_lists import ClassList, class_list
from crossalign.errors import InputError
from crossalign.text.descriptions import normalise_name
from crossalign.text.labels import alike, without_numbers

SPLITS = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|eval|holdout)([ _-]?(set|data|split|images|\d+))?"
)
CONTAINERS = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "data", "labels", "annotations")
"""Names of folders beside the splits that are no classes either."""
WNID = re.compile(r"n\d{8}")
SHOWN = 5
"""Names that a message lists."""

_WNID_BEFORE = re.compile(r"^n\d{8}[-_. ]+(?=\S)")


def check_no_splits(root: Path, folders: Sequence[str]) -> None:
    """Refuse a tree whose class folders are splits such as train and test; warn where only some are called so.

    Raises:
        InputError: all of them are; says which folder to give.
    """
    splits = [name for name in folders if SPLITS.fullmatch(name.casefold())]
    others = [name for name in folders if name not in splits]
    if splits and all(name.casefold() in CONTAINERS for name in others):
        inside = next((name for name in splits if name.casefold().startswith(("test", "val"))), splits[0])
        raise InputError(
            f"the folders {_listed(folders)} in {str(root)!r} look like splits, not classes; give the folder of one split, "
            f"such as {str(root / inside)!r}, or list the images of true classes of these names in a CSV of path,label"
        )
    if len(splits) > 1:
        warnings.warn(
            f"the folders {_listed(splits)} in {str(root)!r} are taken for classes, but look like splits; "
            "if they are, give the folder of one split",
            stacklevel=2,
        )


def own_classes(folders: Sequence[str]) -> ClassList:
    """Name the classes of folders that follow no published list.

    Ids of WordNet that are ImageNet's become its names. Numbers or ids before a name are left out where all folders have
    them, or all but some that a warning names. A warning names what stays a code.

    Raises:
        InputError: two folders have the same name.
    """
    imagenet = class_list("imagenet")
    by_wnid = dict(zip(imagenet.keys, imagenet.names, strict=True))
    tidy = without_ids(folders)
    names = [by_wnid.get(folder) or " ".join(tidy[folder].replace("_", " ").split()) for folder in folders]
    if twins := alike(names):
        first, second = (folders[position] for position in twins[0])
        raise InputError(f"class folders {first!r} and {second!r} have the same name; merge them or rename one")
    _warn_of_codes(folders, names, by_wnid)
    return ClassList(tuple(folders), tuple(names))


def find_classes(classes: ClassList, folders: Sequence[str]) -> dict[str, int]:
    """Match folders with the classes of a published list, also where numbers stand before the names.

    Raises:
        LookupError: no folder matches a class.
        InputError: names every folder that matches no class.
    """
    try:
        return classes.find(folders)
    except (LookupError, InputError):
        tidy = without_ids(folders)
        by_plain = _by_plain_name(classes)
        labels = {folder: by_plain.get(_plain(tidy[folder])) for folder in folders}
        known = {folder: label for folder, label in labels.items() if label is not None}
        if len(known) < len(folders):
            raise
        return known


def without_ids(folders: Sequence[str]) -> dict[str, str]:
    """Remove the WordNet id or number before each folder's name, if more than half of all have one.

    A warning names those that have none.
    """
    wnids = [_WNID_BEFORE.sub("", folder) for folder in folders]
    for bare in (wnids, without_numbers(folders)):
        same = [folder for folder, name in zip(folders, bare, strict=True) if folder == name]
        if 2 * len(same) >= len(folders) or alike(bare):
            continue
        if same:
            warnings.warn(
                f"class folders {_listed(same)} have no number or id before their names, as the others have, whose numbers "
                "or ids are left out of prompts; rename them if that is wrong",
                stacklevel=3,
            )
        return dict(zip(folders, bare, strict=True))
    return dict(zip(folders, folders, strict=True))


def _warn_of_codes(folders: Sequence[str], names: Sequence[str], by_wnid: Mapping[str, str]) -> None:
    """Warn of names without meaning: ids that ImageNet does not have, and bare numbers."""
    if foreign := [folder for folder in folders if WNID.fullmatch(folder) and folder not in by_wnid]:
        warnings.warn(
            f"{len(foreign)} class folders are ids that are not among ImageNet's 1000 and stand in prompts as they are: "
            f"{_listed(foreign)}; rename each to the name of its class",
            stacklevel=3,
        )
    if numbers := [name for name in names if name.replace(" ", "").isdecimal()]:
        warnings.warn(
            f"{len(numbers)} of {len(names)} class folders are called by numbers, which stand in prompts as they are: "
            f"{_listed(numbers)}; rename each to the name of its class, unless the images show these numbers",
            stacklevel=3,
        )


def _by_plain_name(classes: ClassList) -> dict[str, int]:
    """Index the classes by their names without the s of a possessive: copies of CUB have Brewer and Brewers Blackbird."""
    plain = [(_plain(name), label) for names in (classes.keys, classes.names) for label, name in enumerate(names)]
    labels: dict[str, set[int]] = {}
    for name, label in plain:
        labels.setdefault(name, set()).add(label)
    return {name: min(of_name) for name, of_name in labels.items() if len(of_name) == 1}


def _plain(name: str) -> str:
    return " ".join(word.removesuffix("s") for word in normalise_name(name).split())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
