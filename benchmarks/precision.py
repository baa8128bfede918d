"""Compare runtimes and precisions of the embedded encoder: cosines of features, top-1 of clip and wca, and time.

    python benchmarks/precision.py --data ../shared/data --seeds 3
    python benchmarks/precision.py --data ../shared/data --base torch --limit 100
    python benchmarks/precision.py --time     # the last table alone, which needs no data

The others are compared with one runtime in float32, view by view and image by image. int8 is calibrated on photos in
scikit-image. WCA uses each of the 60 views once per seed, and its accuracy is the mean over seeds; clip uses no local views
and needs one seed. A time is the best of a runtime for one pass of 16 views; the runtimes take turns, so that other load on
the machine affects all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders import Encoder, load_encoder
from crossalign.encoders._runtime import example_views
from crossalign.evaluation.evaluate import dataset_prompts
from crossalign.evaluation.statistics import paired_interval
from crossalign.features.pipeline import image_features, text_features
from crossalign.images.crops import ViewRecipe
from crossalign.methods.method import Method, ScoreConfig, TextFeatures
from crossalign.methods.registry import METHODS
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions import bundled_descriptions
from crossalign.text.prompts import PromptInputs

SETS = {"oxford_pets370": "oxford_pet", "imagenet_sample1000": "imagenet"}
WAYS = (("openvino", "f32"), ("openvino", "bf16"), ("openvino", "int8"))
TIMED = (("torch", "f32"), ("torch", "bf16"), *WAYS)
HEADER = [
    "set",
    "images",
    "seeds",
    "runtime",
    "lowest cosine",
    "5 % below",
    "mean",
    "method",
    "top-1 %",
    "minus the first",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path)
    what.add_argument("--time", action="store_true")
    parser.add_argument("--encoder", default="builtin", help="Whose times.")
    parser.add_argument("--base", choices=["openvino", "torch"], default="openvino", help="Compared with, in float32.")
    parser.add_argument("--limit", type=int, default=1000, help="Images of each set, spread evenly.")
    parser.add_argument("--seeds", type=int, default=1, help="Of the views.")
    options = parser.parse_args()
    if options.data:
        ways = WAYS if options.base == "openvino" else (("torch", "f32"), *WAYS)
        rows = [
            row
            for folder, config in SETS.items()
            for row in compare(options.data / folder, config, options.limit, options.seeds, ways)
        ]
        print(tabulate(rows, HEADER, tablefmt="github", disable_numparse=True) + "\n")
    times = best_times(options.encoder)
    rows = [[name, f"{milliseconds:.2f}", f"{cosine:.4f}"] for name, (milliseconds, cosine) in times.items()]
    print(f"{options.encoder}, {torch.get_num_threads()} threads\n")
    print(tabulate(rows, ["runtime", "ms per view", "lowest cosine"], tablefmt="github", disable_numparse=True))


def best_times(spec: str, rounds: int = 30) -> dict[str, tuple[float, float]]:
    """Give each runtime's best milliseconds a view, and the lowest cosine of its self-check."""
    encoders = {
        f"{engine} {precision}": load_encoder(spec, "cpu", runtime=engine, precision=precision)
        for engine, precision in TIMED
    }
    best = dict.fromkeys(encoders, float("inf"))
    views = example_views(next(iter(encoders.values())).preprocessing, 16)
    for _ in range(rounds):
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder.runtime.run(views)
            best[name] = min(best[name], 1000 * (time.perf_counter() - start) / len(views))
    return {name: (best[name], encoder.runtime.cosine) for name, encoder in encoders.items()}


def compare(folder: Path, config_name: str, limit: int, seeds: int, ways: Sequence[tuple[str, str]]) -> Iterator[list[Any]]:
    """Measure one set: a row a runtime and method."""
    config = load_config("folder", config_name)
    dataset = load_dataset(config, folder).limit(limit)
    inputs = dataset_prompts(dataset, config, [bundled_descriptions(config.descriptions)])
    store = Store()
    labels = torch.tensor(dataset.labels)
    exact: dict[int, Tensor] = {}
    before: dict[str, Tensor] = {}
    for engine, precision in ways:
        encoder = load_encoder("builtin", "cpu", runtime=engine, precision=precision)
        scales = ScoreConfig(config.image_scale, config.text_scale)
        texts = {name: _texts(METHODS[name], inputs, encoder, store, scales) for name in ("clip", "wca")}
        cosines: list[Tensor] = []
        right: dict[str, list[Tensor]] = {name: [] for name in texts}
        for seed in range(seeds):
            shards = list(image_features(dataset, encoder, ViewRecipe(config.views, config.crop_scale, seed), store))
            whole, views = (torch.cat(part).float() for part in list(zip(*shards, strict=True))[1:])
            features = torch.cat([whole[:, None], views], 1)
            cosines.append(F.cosine_similarity(features, exact.setdefault(seed, features), dim=-1).flatten())
            for name, of_method in texts.items():
                right[name].append(_answers(METHODS[name], of_method, whole, views, scales) == labels)
        spread = torch.cat(cosines).sort().values
        for name, of_seeds in right.items():
            now = torch.stack(of_seeds, dim=1)
            difference = [100 * value for value in paired_interval(before.setdefault(name, now).numpy(), now.numpy())]
            yield [
                folder.name,
                len(labels),
                seeds,
                f"{engine} {precision}",
                f"{spread[0]:.4f}",
                f"{spread[len(spread) // 20]:.4f}",
                f"{spread.mean():.4f}",
                name,
                f"{100 * now.float().mean():.2f}",
                "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference),
            ]


def _texts(method: Method, inputs: PromptInputs, encoder: Encoder, store: Store, scales: ScoreConfig) -> TextFeatures:
    return text_features_of(method, inputs, lambda texts: text_features(texts, encoder, store), scales)


def _answers(method: Method, texts: TextFeatures, whole: Tensor, views: Tensor, scales: ScoreConfig) -> Tensor:
    pairs = zip(whole.split(256), views.split(256), strict=True)
    return torch.cat([class_scores(method, texts, *pair, scales).argmax(1) for pair in pairs])


if __name__ == "__main__":
    main()
