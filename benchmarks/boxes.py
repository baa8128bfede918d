"""Compare ways to place the same number of views: independent, stratified, antithetic, low-discrepancy.

    python benchmarks/boxes.py --data ../shared/data

A way is better if WCA's scores with few views are closer to those with many independent views. The embedded encoder on
oxford_pets370; error is the root mean square over images and classes, relative to that of independent views.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc
from tabulate import tabulate
from torch import Tensor

from crossalign.datasets import ImageDataset, load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders import Encoder, load_encoder
from crossalign.evaluation.evaluate import dataset_prompts
from crossalign.features.pipeline import encode_views, ordered_map
from crossalign.images.crops import ViewRecipe, crop_boxes
from crossalign.images.decoding import read_image
from crossalign.methods.registry import METHODS, ScoreConfig
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.text.descriptions import bundled_descriptions

Numbers = np.ndarray[Any, np.dtype[np.float64]]
WCA = METHODS["wca"]


def independent(generator: np.random.Generator, count: int) -> Numbers:
    return generator.random((count, 3))


def stratified_sides(generator: np.random.Generator, count: int) -> Numbers:
    numbers = generator.random((count, 3))
    numbers[:, 0] = (generator.permutation(count) + numbers[:, 0]) / count
    return numbers


def antithetic_sides(generator: np.random.Generator, count: int) -> Numbers:
    numbers = generator.random((count, 3))
    numbers[1::2, 0] = 1 - numbers[: count // 2 * 2 : 2, 0]
    return np.minimum(numbers, np.nextafter(1, 0))


def latin_hypercube(generator: np.random.Generator, count: int) -> Numbers:
    numbers: Numbers = qmc.LatinHypercube(3, rng=generator).random(count)
    return numbers


def sobol(generator: np.random.Generator, count: int) -> Numbers:
    numbers: Numbers = qmc.Sobol(3, rng=generator).random(count)
    return np.minimum(numbers, np.nextafter(1, 0))


WAYS = (independent, stratified_sides, antithetic_sides, latin_hypercube, sobol)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=185, help="Images, spread evenly.")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--reference-views", type=int, default=128)
    options = parser.parse_args()
    config = load_config("folder", "oxford_pet")
    dataset = load_dataset(config, options.data / "oxford_pets370").limit(options.limit)
    encoder = load_encoder("builtin", "cpu", runtime="auto", precision="f32")
    inputs = dataset_prompts(dataset, config, [bundled_descriptions(config.descriptions)])
    scales = ScoreConfig(config.image_scale, config.text_scale)
    texts = text_features_of(WCA, inputs, encoder.encode_texts, scales)

    def scores(way: Callable[[np.random.Generator, int], Numbers], count: int, seed: int) -> Tensor:
        features = encode(dataset, encoder, ViewRecipe(count, config.crop_scale, seed), way)
        return class_scores(WCA, texts, features[:, 0], features[:, 1:], scales)

    many = scores(independent, options.reference_views, 1_000_000)
    labels, rows = torch.tensor(dataset.labels), []
    base: dict[int, float] = {}
    for count in (8, 16):
        for way in WAYS:
            found = torch.stack([scores(way, count, seed) for seed in range(options.seeds)])
            error = (found - many).square().mean().sqrt().item()
            base.setdefault(count, error)
            same, right = (100 * (found.argmax(2) == answer).float().mean().item() for answer in (many.argmax(1), labels))
            name = way.__name__.replace("_", " ")
            rows.append([count, name, f"{error / base[count]:.3f}", f"{same:.1f}", f"{right:.1f}"])
    header = ["views", "way", "error", f"same answer as {options.reference_views} views, %", "top-1 %"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def encode(
    dataset: ImageDataset, encoder: Encoder, recipe: ViewRecipe, way: Callable[[np.random.Generator, int], Numbers]
) -> Tensor:
    """Encode the global view and the local views of each image, (N, 1 + M, D), with boxes placed in the given way."""

    def crop(item: tuple[Path, int]) -> Tensor:
        path, index = item
        image = read_image(path)
        boxes = recipe.place(way(np.random.default_rng((recipe.seed, index)), recipe.count), *image.shape[1:])
        return torch.cat([encoder.preprocessing.fit(image)[None], crop_boxes(image, boxes, encoder.preprocessing)])

    images = zip(dataset.paths, dataset.indices, strict=True)
    return torch.stack(list(encode_views(encoder, ordered_map(crop, images, 2, ahead=16))))


if __name__ == "__main__":
    main()
