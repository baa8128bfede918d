"""Compare adaptive views with all 60 views: agreement, top-1 and mean number of views, by confidence.

    python benchmarks/adaptive.py --data ../shared/data

The embedded encoder in float32 on two sets. Features of all 60 views come from the store, or are encoded first. The
sequential test then gets them round by round, as in `classify`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders import Encoder, load_encoder
from crossalign.evaluation.evaluate import dataset_prompts
from crossalign.evaluation.statistics import paired_interval, wilson_interval
from crossalign.features.adaptive import Rounds, settled
from crossalign.features.pipeline import image_features, text_features
from crossalign.images.crops import ViewRecipe
from crossalign.methods.method import ScoreConfig, WeightedMean
from crossalign.methods.registry import METHODS
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions import bundled_descriptions

SETS = {"oxford_pets370": "oxford_pet", "imagenet_sample1000": "imagenet"}
CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
WCA = METHODS["wca"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--runtime", default="torch")
    options = parser.parse_args()
    encoder = load_encoder("builtin", runtime=options.runtime)
    header = ["set", "seed", "confidence", "mean views", "same answer %", "top-1 %", "95 % interval", "minus all views"]
    rows = [
        [folder, seed, *row]
        for folder, config in SETS.items()
        for seed in options.seed
        for row in curve(options.data / folder, config, encoder, seed)
    ]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def curve(folder: Path, config_name: str, encoder: Encoder, seed: int) -> list[list[str]]:
    """Measure one set: a row a confidence, and one for all views."""
    config = load_config("folder", config_name)
    dataset = load_dataset(config, folder)
    inputs = dataset_prompts(dataset, config, [bundled_descriptions(config.descriptions)], seed=seed)
    store = Store()
    scales = ScoreConfig(config.image_scale, config.text_scale)
    of_classes = text_features_of(WCA, inputs, lambda texts: text_features(texts, encoder, store), scales)
    score = WCA.score
    assert isinstance(score, WeightedMean)
    shards = list(image_features(dataset, encoder, ViewRecipe(config.views, config.crop_scale, seed), store))
    whole = torch.cat([features for _, features, _ in shards]).float()
    views = torch.cat([features for *_, features in shards]).float()

    def answers(part: Tensor, seen: Tensor) -> Tensor:
        return class_scores(WCA, of_classes, part, seen, scales).argmax(1)

    labels = torch.tensor(dataset.labels)
    texts = F.normalize(of_classes.pooled, dim=-1)
    all_views = answers(whole, views)
    rows = []
    for confidence in CONFIDENCES:
        rounds = Rounds(config.views, confidence)
        found, used = all_views.clone(), torch.full_like(labels, config.views)
        open_ones = torch.arange(len(labels))
        for count in rounds.counts:
            part, seen = whole[open_ones], views[open_ones, :count]
            weights = score.weights(part, seen, scales)
            # In parts, because the (images, views, classes) similarities of a thousand classes need gigabytes.
            pairs = zip(seen.split(64), weights.split(64), strict=True)
            stop = torch.cat([settled(some.double() @ texts.double().T, weight, rounds) for some, weight in pairs])
            found[open_ones[stop]] = answers(part[stop], seen[stop])
            used[open_ones[stop]] = count
            open_ones = open_ones[~stop]
            if not len(open_ones):
                break
        rows.append([f"{confidence:g}", *_row(found, used, all_views, labels)])
    return [*rows, ["all views", *_row(all_views, torch.full_like(labels, config.views), all_views, labels)]]


def _row(found: Tensor, used: Tensor, all_views: Tensor, labels: Tensor) -> list[str]:
    right, before = found == labels, all_views == labels
    low, high = wilson_interval(int(right.sum()), len(labels))
    difference = [100 * value for value in paired_interval(before.numpy(), right.numpy())]
    return [
        f"{used.float().mean():.1f}",
        f"{100 * (found == all_views).float().mean():.2f}",
        f"{100 * right.float().mean():.2f}",
        f"{100 * low:.2f} to {100 * high:.2f}",
        "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference),
    ]


if __name__ == "__main__":
    main()
