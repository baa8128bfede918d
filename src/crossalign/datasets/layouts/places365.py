"""Places365-Standard: the validation images and their list, or class folders as in the packed variant."""

from __future__ import annotations

from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree
from crossalign.datasets.configs import Config
from crossalign.datasets.layouts import folder


def read(root: Path, config: Config) -> Tree:
    """Read val_256 or val_large beside places365_val.txt, else class folders."""
    listed = root / "places365_val.txt"
    if not listed.is_file():
        return folder.read(root, config)
    categories = [line.split() for line in (root / "categories_places365.txt").read_text("utf-8").splitlines()]
    classes = classes_of(config)
    label_of = classes.find([key.split("/", 2)[2] for key, _ in categories])
    labels = {number: label_of[key.split("/", 2)[2]] for key, number in categories}
    rows = [line.split() for line in listed.read_text("utf-8").splitlines()]
    images = find_tree(root, config)
    return Tree([images / name for name, _ in rows], [labels[number] for _, number in rows], classes)
