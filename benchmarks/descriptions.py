"""Compare the bundled descriptions with DCLIP's and CuPL's published files, method by method.

    python benchmarks/descriptions.py --data ../shared/data

Every method that reads descriptions is measured with each source on the same features; differences are paired by
image, against `clip` and against the bundled descriptions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tabulate import tabulate

from crossalign.datasets import ImageDataset, load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders import load_encoder
from crossalign.evaluation.evaluate import evaluate
from crossalign.evaluation.statistics import Array, paired_interval
from crossalign.methods.registry import pick_methods
from crossalign.store.shards import Store
from crossalign.text.descriptions import Descriptions, bundled_descriptions, load_descriptions

SETS = {"oxford_pets370": "oxford_pet", "imagenet_sample1000": "imagenet"}
PLAIN, DESCRIBED = ("clip", "clip-e"), ("clip-d", "cupl", "wca")


def shown(pair: tuple[float, float, float]) -> str:
    difference, low, high = (100 * value for value in pair)
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


def losses(dataset: ImageDataset, ours: Array, theirs: Array, most: int = 5) -> str:
    """The classes in which our descriptions have fewer right images than the others."""
    labels = np.array(dataset.labels)
    by_class = [(ours - theirs)[labels == label].sum() for label in range(len(dataset.class_names))]
    worst = [label for label in np.argsort(by_class)[:most] if by_class[label] < 0]
    return ", ".join(f"{dataset.class_names[label]} {by_class[label]:+.1f}" for label in worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="builtin")
    options = parser.parse_args()
    encoder, store = load_encoder(options.encoder), Store()
    for folder, name in SETS.items():
        config = load_config("folder", name)
        dataset = load_dataset(config, options.data / folder)

        def hits(methods: tuple[str, ...], sources: list[Descriptions]) -> dict[str, Array]:
            done = evaluate(
                dataset,  # noqa: B023
                encoder,
                config,  # noqa: B023
                pick_methods(methods),
                descriptions=sources,
                store=store,
                allow_missing=True,
            )
            return {result.method: (result.ranks < 1).mean(axis=1) for result in done.results}

        files = {kind: options.data / "descriptions" / kind / f"{name}.json" for kind in ("dclip", "cupl")}
        sources = {"bundled": bundled_descriptions(name)} | {kind: load_descriptions(file) for kind, file in files.items()}
        plain = hits(PLAIN, [])
        found = {source: hits(DESCRIBED, [descriptions]) for source, descriptions in sources.items()}
        rows = [[method, "", f"{100 * right.mean():.2f}", "", ""] for method, right in plain.items()]
        for method in DESCRIBED:
            for source, by_method in found.items():
                right, ours = by_method[method], found["bundled"][method]
                against_ours = "" if source == "bundled" else shown(paired_interval(right, ours))
                against_clip = shown(paired_interval(plain["clip"], right))
                rows.append([method, source, f"{100 * right.mean():.2f}", against_clip, against_ours])
        header = ["method", "descriptions", "top-1 %", "minus clip", "bundled minus this"]
        print(f"\n{folder}, {len(dataset.paths)} images, {encoder.name}\n")
        print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
        for kind in files:
            print(f"\nclasses with the largest loss against {kind} (clip-d, images):", end=" ")
            print(losses(dataset, found["bundled"]["clip-d"], found[kind]["clip-d"]) or "none")


if __name__ == "__main__":
    main()
