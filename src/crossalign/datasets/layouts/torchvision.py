"""Datasets whose trees torchvision reads: Oxford-IIIT Pet, DTD, Food-101."""

from __future__ import annotations

from pathlib import Path

from crossalign.datasets import Tree, classes_of
from crossalign.datasets.configs import Config

IMAGE_FOLDERS = {"OxfordIIITPet": "oxford-iiit-pet/images", "DTD": "dtd/dtd/images", "Food101": "food-101/images"}
"""Where torchvision's class looks for the images, under its root."""


def read(root: Path, config: Config) -> Tree:
    """List the images with torchvision; `root` is the root of its download, or a folder of the dataset inside it."""
    from torchvision import datasets

    options = dict(config.torchvision or {})
    kind = options.pop("class")
    listed = getattr(datasets, kind)(_told(root, kind), **options)
    paths: list[Path] = listed._images if kind == "OxfordIIITPet" else listed._image_files
    # By name: torchvision counts only the classes that its list of images mentions.
    names = [path.stem.rsplit("_", 1)[0] if kind == "OxfordIIITPet" else path.parent.name for path in paths]
    classes = classes_of(config)
    labels = classes.find(sorted(set(names)))
    return Tree(paths, [labels[name] for name in names], classes)


def _told(root: Path, kind: str) -> Path:
    """Find the root of torchvision's download above a folder of the dataset."""
    path = root.absolute()
    for place in (path, *path.parents[:2]):
        images = place / IMAGE_FOLDERS[kind]
        if images.is_dir() and images.is_relative_to(path):
            return place
    return root
