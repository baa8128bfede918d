"""ImageNet and its shifted test sets: one folder per class, named by wnid, or by class index as in ImageNetV2.

ImageNet's own validation images are published in one flat folder, their classes in the development kit or, by Kaggle,
in a CSV; that is read too.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree, images_by_folder
from crossalign.datasets.class_lists import ClassList
from crossalign.datasets.configs import Config
from crossalign.images.finding import PassedOver

SYNSETS = {"imagenet-a": "imagenet_a_synsets.txt", "imagenet-r": "imagenet_r_synsets.txt"}
"""The sets that cover a part of the 1000 classes, and timm's list of that part."""


def read(root: Path, config: Config) -> Tree:
    """Read a tree; the classes are all 1000, or those whose folders exist where the set covers only a part."""
    tree = find_tree(root, config)
    passed = PassedOver()
    flat = any(tree.glob("ILSVRC2012_val_*.JPEG"))
    images = _from_lists(root, tree) if flat else images_by_folder(tree, passed)
    folders = sorted({folder for _, folder in images})
    every, part = classes_of(config), _part(config.name)
    classes = every.take(row for row, wnid in enumerate(every.keys) if wnid in part) if part else every
    by_index = all(folder.isdigit() for folder in folders)
    named = ClassList(tuple(map(str, range(len(every.keys)))), every.names) if by_index else classes
    labels = named.find(folders)
    if part:
        present = sorted(set(labels.values()))
        if len(present) < len(part):
            warnings.warn(f"{len(present)} of the {len(part)} classes of {config.name} are there", stacklevel=2)
        classes = classes.take(present)
        labels = {folder: present.index(label) for folder, label in labels.items()}
    return Tree([path for path, _ in images], [labels[folder] for _, folder in images], classes, str(passed))


def _from_lists(root: Path, tree: Path) -> list[tuple[Path, str]]:
    """Read the flat folder: its classes stand in a list somewhere between it and the given root."""
    for place in (tree, *tree.parents):
        if (table := place / "LOC_val_solution.csv").is_file():
            return _from_kaggle(tree, table)
        if (kit := place / "ILSVRC2012_devkit_t12" / "data").is_dir():
            return _from_kit(tree, kit)
        if place == root:
            break
    raise FileNotFoundError("its images lie in one folder, without a list of their classes")


def _from_kaggle(tree: Path, table: Path) -> list[tuple[Path, str]]:
    rows = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    return sorted((tree / f"{row['ImageId']}.JPEG", row["PredictionString"].split()[0]) for row in rows)


def _from_kit(tree: Path, kit: Path) -> list[tuple[Path, str]]:
    from scipy.io import loadmat

    synsets = loadmat(kit / "meta.mat", squeeze_me=True)["synsets"]
    wnids = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    numbers = (kit / "ILSVRC2012_validation_ground_truth.txt").read_text(encoding="utf-8").split()
    return [(tree / f"ILSVRC2012_val_{row:08d}.JPEG", wnids[int(number)]) for row, number in enumerate(numbers, start=1)]


def _part(name: str) -> frozenset[str]:
    if name not in SYNSETS:
        return frozenset()
    from importlib import resources

    text = (resources.files("timm") / "data" / "_info" / SYNSETS[name]).read_text(encoding="utf-8")
    return frozenset(text.split())
