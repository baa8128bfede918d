"""Oxford Flowers 102: numbered images, with labels and the official split in MATLAB files."""

from __future__ import annotations

from pathlib import Path

from crossalign.datasets import Tree, classes_of, find_tree
from crossalign.datasets.configs import Config


def read(root: Path, config: Config) -> Tree:
    """Read the official test split."""
    from scipy.io import loadmat

    root = find_tree(root, config)
    test = loadmat(root / "setid.mat", squeeze_me=True)["tstid"].tolist()
    labels = loadmat(root / "imagelabels.mat", squeeze_me=True)["labels"].tolist()
    paths = [root / "jpg" / f"image_{number:05d}.jpg" for number in test]
    return Tree(paths, [labels[number - 1] - 1 for number in test], classes_of(config))
