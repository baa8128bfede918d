"""Measure below which cosine to its nearest ImageNet name the built-in encoder does not recognise a class.

    python benchmarks/builtin_labels.py --data ../shared/data

The first table shows the class lists that ship with the package, and the labels of `crossalign demo`: how near their names
are to the encoder's 1000 anchors, and how many of them are below the bound in use. The others relate that cosine to
accuracy: the share of a class's images that `clip` (one prompt per class, the global view) assigns to it. A class is
recognised if that share is one half or more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from builtin import SETS, logits
from crossalign.datasets import ImageDataset, load_dataset
from crossalign.datasets.class_lists import class_list
from crossalign.datasets.configs import load_config
from crossalign.encoders.builtin import Conse, ConseSettings
from crossalign.text.descriptions import bundled_descriptions
from crossalign.text.prompts import PHOTO

LISTS = ("oxford_pet", "flowers102", "imagenet", "dtd", "cub", "food101", "caltech101", "eurosat", "places365")
BOUNDS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)


def accuracy_by_class(encoder: Conse, dataset: ImageDataset) -> Tensor:
    """Give the share of each class's images that are assigned to it: (C,)."""
    texts = encoder.encode_texts([PHOTO.format(name) for name in dataset.class_names])
    class_logits, _ = logits(encoder, dataset)
    labels = torch.tensor(dataset.labels)
    hits = ((encoder.finish(class_logits) @ texts.T).argmax(1) == labels).float()
    return torch.stack([hits[labels == row].mean() for row in range(len(dataset.class_names))])


def nearest(encoder: Conse, names: tuple[str, ...]) -> Tensor:
    return encoder.nearest_anchor(encoder.encode_texts(names))


def percent(values: Tensor) -> str:
    return f"{100 * values.float().mean().item():.0f}" if len(values) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    encoder = Conse(ConseSettings(), torch.device("cpu"))
    rows = []
    lists = {name: class_list(name).names for name in LISTS} | {"demo": tuple(bundled_descriptions("demo").classes)}
    for name, names in lists.items():
        cosines = nearest(encoder, names)
        quartiles = cosines.quantile(torch.tensor([0.0, 0.25, 0.5, 0.75])).tolist()
        count = int((cosines < encoder.least_anchor).sum())
        rows.append([name, str(len(cosines)), *(f"{cosine:.2f}" for cosine in quartiles), str(count)])
    header = ["class list", "classes", "lowest cosine", "25 %", "median", "75 %", f"below {encoder.least_anchor}"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True), flush=True)

    measured = {}
    for name, folder in SETS.items():
        dataset = load_dataset(load_config("folder"), data / folder)
        measured[name] = nearest(encoder, dataset.class_names), accuracy_by_class(encoder, dataset)

    rows = []
    for low, high in zip((0.0, *BOUNDS), (*BOUNDS, 2.0), strict=True):
        row = [f"{low:.2f} to {min(high, 1):.2f}"]
        for cosines, accuracy in measured.values():
            inside = (cosines >= low) & (cosines < high)
            row += [str(int(inside.sum())), percent(accuracy[inside])]
        rows.append(row)
    header = ["nearest cosine", *(column for name in measured for column in (f"{name} classes", "accuracy %"))]
    print("\n" + tabulate(rows, header, tablefmt="github", disable_numparse=True))

    cosines = torch.cat([cosines for cosines, _ in measured.values()])
    recognised = torch.cat([accuracy for _, accuracy in measured.values()]) >= 0.5
    rows = []
    for bound in BOUNDS:
        below = cosines < bound
        rows.append([f"{bound:.2f}", str(int(below.sum())), percent(~recognised[below]), percent(below[~recognised])])
    header = ["bound", "classes below", "of these not recognised %", "of all not recognised below %"]
    print("\n" + tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
