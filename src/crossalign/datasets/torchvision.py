"""Datasets whose trees torchvision reads: Oxford-IIIT Pet, DTD, Food-101."""

from __future__ import annotations

from pathlib import Path

from crossalign.configs import Config
from crossalign.datasets import Tree, classes_of

OWN_FOLDERS = {"OxfordIIITPet": "oxford-iiit-pet", "DTD": "dtd", "Food101": "food-101"}


def read(root: Path, config: Config) -> Tree:
    """Let torchvision list the pictures; `root` is the folder it was told to download to, or the dataset's own."""
    from torchvision import datasets

    options = dict(config.torchvision or {})
    kind = options.pop("class")
    if root.name == OWN_FOLDERS[kind] and not (root / OWN_FOLDERS[kind] / "images").is_dir():
        root = root.parent
    listed = getattr(datasets, kind)(root, **options)
    paths: list[Path] = listed._images if kind == "OxfordIIITPet" else listed._image_files
    classes = classes_of(config)
    labels = classes.find(listed.classes)
    return Tree(paths, [labels[listed.classes[label]] for label in listed._labels], classes)
