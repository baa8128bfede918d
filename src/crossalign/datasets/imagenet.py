"""ImageNet and its shifted test sets: one folder a class, named by wnid, or by class index as in ImageNetV2."""

from __future__ import annotations

import warnings
from pathlib import Path

from crossalign.configs import Config
from crossalign.datasets import Tree, classes_of, find_tree, pictures_in
from crossalign.datasets._classes import ClassList
from crossalign.errors import InputError

SYNSETS = {"imagenet-a": "imagenet_a_synsets.txt", "imagenet-r": "imagenet_r_synsets.txt"}
"""The sets that cover a part of the 1000 classes, and timm's list of that part."""


def read(root: Path, config: Config) -> Tree:
    """Read a tree; the classes are all 1000, or those whose folders exist where the set covers only a part."""
    every = classes_of(config)
    folders = sorted(path for path in find_tree(root, config).iterdir() if path.is_dir() and path.name[0] != ".")
    by_index = bool(folders) and all(folder.name.isdigit() for folder in folders)
    known = {str(i): i for i in range(len(every.keys))} if by_index else {w: i for i, w in enumerate(every.keys)}
    part = _part(config.name)
    unknown = [path.name for path in folders if path.name not in known or (part and path.name not in part)]
    if unknown:
        raise InputError(f"{len(unknown)} folders are no classes of {config.name}: {', '.join(unknown)}; remove them")
    labels = {folder: known[folder.name] for folder in folders}
    classes = every
    if part:
        kept = sorted(labels.values())
        if len(kept) < len(part):
            warnings.warn(f"{len(kept)} of the {len(part)} classes of {config.name} are there", stacklevel=2)
        classes = ClassList(tuple(every.keys[i] for i in kept), tuple(every.names[i] for i in kept))
        labels = {folder: kept.index(label) for folder, label in labels.items()}
    found = [(path, label) for folder, label in labels.items() for path in pictures_in(folder)]
    return Tree([path for path, _ in found], [label for _, label in found], classes)


def _part(name: str) -> frozenset[str]:
    if name not in SYNSETS:
        return frozenset()
    from importlib import resources

    text = (resources.files("timm") / "data" / "_info" / SYNSETS[name]).read_text(encoding="utf-8")
    return frozenset(text.split())
