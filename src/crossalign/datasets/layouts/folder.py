"""Class folders, ROOT/CLASS/**/PICTURE, or a CSV of path,label."""

from __future__ import annotations

import csv
from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree, images_by_folder
from crossalign.datasets.class_folders import check_no_splits, find_classes, own_classes
from crossalign.datasets.configs import Config
from crossalign.errors import InputError
from crossalign.images.finding import PassedOver
from crossalign.text.descriptions import normalise_name


def read(root: Path, config: Config) -> Tree:
    """Read class folders or a CSV; class names are the config's, else `own_classes` of the folders."""
    passed = PassedOver()
    if root.suffix.lower() == ".csv":
        images = _from_csv(root)
    else:
        tree = find_tree(root, config)
        images = images_by_folder(tree, passed, config.left_out)
    folders = sorted({folder for _, folder in images}, key=lambda folder: (normalise_name(folder), folder))
    if config.classes:
        classes = classes_of(config)
        labels = find_classes(classes, folders)
    else:
        if root.suffix.lower() != ".csv":
            check_no_splits(root, folders)
        classes = own_classes(folders)
        labels = {folder: label for label, folder in enumerate(folders)}
    return Tree([path for path, _ in images], [labels[folder] for _, folder in images], classes, str(passed))


def _from_csv(file: Path) -> list[tuple[Path, str]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    if rows and [cell.lower() for cell in rows[0][1]] == ["path", "label"]:
        rows = rows[1:]
    for line, row in rows:
        if len(row) != 2 or not all(row):
            raise InputError(f"line {line} of {str(file)!r} is {','.join(row)!r}, but must be path,label; mend it")
    return [(file.parent / path, label) for _, (path, label) in rows]
