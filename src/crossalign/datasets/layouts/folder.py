"""Class folders, ROOT/CLASS/**/PICTURE, or a CSV of path,label."""

from __future__ import annotations

import csv
from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree, pictures_in
from crossalign.datasets.class_lists import ClassList, class_list
from crossalign.datasets.configs import Config
from crossalign.errors import InputError
from crossalign.text.descriptions import normalise_name


def read(root: Path, config: Config) -> Tree:
    """Read class folders or a CSV; class names are the config's, else ImageNet's for wnids, else the folders'."""
    is_csv = root.suffix.lower() == ".csv"
    pictures = _from_csv(root) if is_csv else _from_folders(find_tree(root, config), config.left_out)
    folders = sorted({folder for _, folder in pictures}, key=lambda folder: (normalise_name(folder), folder))
    classes = classes_of(config) if config.classes else _own_classes(folders)
    labels = classes.find(folders)
    return Tree([path for path, _ in pictures], [labels[folder] for _, folder in pictures], classes)


def _own_classes(folders: list[str]) -> ClassList:
    imagenet = class_list("imagenet")
    by_wnid = dict(zip(imagenet.keys, imagenet.names, strict=True))
    if folders and all(folder in by_wnid for folder in folders):
        return ClassList(tuple(folders), tuple(by_wnid[folder] for folder in folders))
    names = [" ".join(folder.replace("_", " ").split()) for folder in folders]
    by_name: dict[str, str] = {}
    for folder, name in zip(folders, names, strict=True):
        if (twin := by_name.setdefault(normalise_name(name), folder)) != folder:
            raise InputError(f"class folders {twin!r} and {folder!r} have the same name; merge them or rename one")
    return ClassList(tuple(folders), tuple(names))


def _from_folders(root: Path, left_out: tuple[str, ...]) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.name in left_out:
            continue
        found += [(path, folder.name) for path in pictures_in(folder)]
    return found


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
