"""Caltech-UCSD Birds 200-2011: lists of images, labels and the official split beside a tree of class folders."""

from __future__ import annotations

from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree
from crossalign.datasets.configs import Config


def read(root: Path, config: Config) -> Tree:
    """Read the official test split."""
    root = find_tree(root, config)
    images, labels, training, names = (
        _table(root / f"{name}.txt") for name in ("images", "image_class_labels", "train_test_split", "classes")
    )
    classes = classes_of(config)
    label_of = classes.find([name.split(".", 1)[1] for name in names.values()])
    by_number = {number: label_of[name.split(".", 1)[1]] for number, name in names.items()}
    test = [number for number in images if training[number] == "0"]
    return Tree([root / "images" / images[n] for n in test], [by_number[labels[n]] for n in test], classes)


def _table(file: Path) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    return {key: value.strip() for key, value in pairs}
