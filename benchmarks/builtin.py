"""Choose the built-in encoder's classifier, input size, k, temperature and anchor prompt by measuring.

    python benchmarks/builtin.py --data ../shared/data

Top-1 of `clip` (one prompt per class, the global view) on each set, and milliseconds per image on this machine. The choice
is made on the same images, so the chosen row is slightly optimistic; the rows show that the choice matters little.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate

from crossalign.datasets import ImageDataset, load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders.builtin import Conse, ConseSettings
from crossalign.features.pipeline import ordered_map
from crossalign.images.decoding import read_image
from crossalign.text.prompts import PHOTO

SETS = {"pets": "oxford_pets370", "flowers": "flowers102_test1020", "imagenet": "imagenet_sample1000"}
SIZES = {"lite0": (224, 256), "lite1": (240, 272), "lite2": (260, 300)}


def logits(encoder: Conse, dataset: ImageDataset) -> tuple[torch.Tensor, float]:
    pixels = ordered_map(lambda path: encoder.preprocessing.fit(read_image(path)), dataset.paths, 1, ahead=128)
    rows, seconds = [], 0.0
    batch: list[torch.Tensor] = []
    for number, image in enumerate(pixels, start=1):
        batch.append(image)
        if len(batch) == 32 or number == len(dataset.paths):
            start = time.perf_counter()
            rows.append(encoder.classify(encoder.runtime.run(torch.stack(batch))))
            seconds += time.perf_counter() - start
            batch = []
    return torch.cat(rows), 1000 * seconds / len(dataset.paths)


def accuracy(encoder: Conse, dataset: ImageDataset, class_logits: torch.Tensor) -> float:
    texts = encoder.encode_texts([PHOTO.format(name) for name in dataset.class_names])
    hits = (encoder.mix(class_logits) @ texts.T).argmax(1) == torch.tensor(dataset.labels)
    return 100 * hits.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    datasets = {name: load_dataset(load_config("folder"), data / folder) for name, folder in SETS.items()}
    rows = []
    for classifier, sizes in SIZES.items():
        for size in sizes:
            base = ConseSettings(classifier=classifier, size=size)
            encoder = Conse(base, torch.device("cpu"))
            measured = {name: logits(encoder, dataset) for name, dataset in datasets.items()}
            speed = sum(ms for _, ms in measured.values()) / len(measured)
            variants = [base]
            if size == sizes[0]:
                variants += [replace(base, top_k=k) for k in (5, 20, 1000)]
                variants += [replace(base, temperature=t) for t in (0.7, 1.5)]
                variants += [replace(base, anchor_prompt=PHOTO)]
            for settings in variants:
                encoder.use(settings)
                found = [accuracy(encoder, datasets[name], measured[name][0]) for name in SETS]
                choice = [classifier, size, settings.top_k, settings.temperature, settings.anchor_prompt]
                rows.append([*choice, *(f"{share:.1f}" for share in found), f"{speed:.1f}"])
                print(rows[-1], flush=True)
    header = [
        "classifier",
        "size",
        "k",
        "temperature",
        "anchor prompt",
        *(f"{s} top-1 %" for s in SETS),
        "ms per image",
    ]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
