"""Class folders, ROOT/CLASS/**/IMAGE, or a CSV of path,label."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree, images_by_folder
from crossalign.datasets.class_folders import check_no_splits, find_classes, own_classes
from crossalign.datasets.configs import Config
from crossalign.errors import InputError
from crossalign.images.finding import PassedOver
from crossalign.text.descriptions import normalise_name
from crossalign.text.labels import decoded

PATH_COLUMNS = ("path", "filepath", "file_path", "image_path", "file", "filename", "file_name", "image")
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category", "target")
"""Names of columns in the header of a table; the first one that exists is used."""


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
    """Read paths and labels from a table whose cells commas, semicolons or tabs separate, with or without a header."""
    try:
        lines = decoded(file.read_bytes()).splitlines(keepends=True)
    except UnicodeDecodeError:
        raise InputError(f"{str(file)!r} is no UTF-8 text; save it as CSV in UTF-8") from None
    rows = _rows(lines)
    path, label, width = 0, 1, 2
    if rows and (columns := _columns(rows[0][1])):
        path, label, width = *columns, len(rows[0][1])
        rows = rows[1:]
    for line, row in rows:
        if len(row) != width or not row[path] or not row[label]:
            raise InputError(
                f"line {line} of {str(file)!r} is {','.join(row)!r}, but must be path,label, or have the columns of the "
                "first line; fix it"
            )
    return [(_image_path(file.parent, row[path]), row[label]) for _, row in rows]


def _rows(lines: list[str]) -> list[tuple[int, list[str]]]:
    """Split a table into (line number, cells), at the separator that comes first in it."""
    first = re.sub(r'"[^"]*"', "", next((line for line in lines if line.strip()), ""))
    separator = next((sign for sign in first if sign in ",;\t"), ",")
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]


def _columns(cells: list[str]) -> tuple[int, int] | None:
    """Find the columns of paths and of labels in a header; None if the line is no header."""
    names = [cell.casefold() for cell in cells]
    path = next((names.index(name) for name in PATH_COLUMNS if name in names), None)
    label = next((names.index(name) for name in LABEL_COLUMNS if name in names), None)
    return None if path is None or label is None else (path, label)


def _image_path(folder: Path, path: str) -> Path:
    """Find an image beside its list; lists from Windows have backslashes in paths."""
    if "\\" in path and not (folder / path).exists():
        return folder / path.replace("\\", "/")
    return folder / path
