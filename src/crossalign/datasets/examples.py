"""Example images of classes: a folder DIR/CLASS/images, and the check that no image stands for two classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from crossalign.datasets.class_folders import check_no_splits, own_classes
from crossalign.errors import InputError
from crossalign.images.finding import PassedOver, images_in, is_hidden
from crossalign.images.inputs import ImageLike
from crossalign.text.descriptions import normalise_name

Examples = Mapping[str, Sequence[ImageLike]]
"""Class name to its example images."""
SHOWN = 5
"""Folders that a message lists."""


def find_examples(folder: str | Path, labels: Sequence[str] | None = None) -> Examples:
    """Find the example images in DIR/CLASS/images.

    Args:
        folder: DIR.
        labels: the wanted class names; by default the names of the folders. A folder belongs to the label that it is called
            by, whatever its case, hyphens and underscores.

    Returns:
        For each class, in the order of the labels, its images in the order of their names.

    Raises:
        InputError: there is no such folder, it has no class folders, a class has no image, or a label no folder.
    """
    root = Path(folder)
    try:
        folders = sorted(inside.name for inside in root.iterdir() if inside.is_dir() and not is_hidden(inside.name))
    except OSError as error:
        raise InputError(
            f"examples {str(root)!r} cannot be read ({error.strerror}); give a folder DIR/CLASS/images"
        ) from None
    if not folders:
        raise InputError(f"examples {str(root)!r} has no folders in it; put the images of each class into DIR/CLASS")
    check_no_splits(root, folders)
    names = dict(zip(folders, own_classes(folders).names, strict=True))
    if labels is None:
        return {names[name]: _images(root / name) for name in folders}
    by_name = {normalise_name(called): name for name in folders for called in (name, names[name])}
    lacking = [label for label in labels if normalise_name(label) not in by_name]
    if lacking:
        raise InputError(
            f"examples {str(root)!r} has no folder for {', '.join(lacking)}; add it, or leave the label out "
            f"(its folders: {', '.join(folders[:SHOWN])}{', ...' if folders[SHOWN:] else ''})"
        )
    return {label: _images(root / by_name[normalise_name(label)]) for label in labels}


def check_examples(examples: Examples, labels: Sequence[str]) -> None:
    """Make sure that each label has examples, and that no other class has.

    Raises:
        InputError: names the labels without examples, or the classes that are no label.
    """
    if lacking := [label for label in labels if not examples.get(label)]:
        raise InputError(f"there are no examples for {', '.join(lacking)}; add some, or leave the label out")
    if others := [name for name in examples if name not in labels]:
        raise InputError(f"there are examples for {', '.join(others)}, which is no label; add the label or leave them out")


def check_distinct(digests: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Refuse an image that stands for two classes.

    Args:
        digests: for each class the (name, digest of the content) of its images.

    Raises:
        InputError: names both files.
    """
    seen: dict[str, tuple[str, str]] = {}
    for label, images in digests.items():
        for name, digest in images:
            if not digest:  # It cannot be read, which is said when it is encoded.
                continue
            before, first = seen.setdefault(digest, (label, name))
            if before != label:
                raise InputError(
                    f"the same image is an example of {before!r} ({first!r}) and of {label!r} ({name!r}); "
                    "keep it in one class"
                )


def _images(folder: Path) -> list[str]:
    images = [str(path) for path in images_in(folder, PassedOver())]
    if not images:
        raise InputError(f"class folder {str(folder)!r} holds no image; add some, or remove it")
    return images
