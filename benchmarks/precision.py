"""Compare runtimes and precisions of the embedded encoder: cosines of features, top-1 of clip and wca, and time.

    python benchmarks/precision.py --data ../shared/data
    python benchmarks/precision.py --time     # the last table alone, which needs no data

Torch in float32 is what the others are compared with, view by view and picture by picture. int8 is calibrated on photos
inside scikit-image. WCA uses each of the 60 views once. The times are each runtime's best for one pass of 16 views, in
which all take turns; what else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from crossalign.configs import load_config
from crossalign.datasets import load_dataset
from crossalign.descriptions import bundled_descriptions
from crossalign.encoders import load_encoder
from crossalign.encoders._runtime import example_views
from crossalign.evaluation import dataset_prompts
from crossalign.features import image_features, text_features
from crossalign.methods import METHODS, class_scores, text_bank
from crossalign.statistics import paired_interval
from crossalign.store import Store
from crossalign.views import ViewRecipe

SETS = {"oxford_pets370": "oxford_pet", "imagenet_sample1000": "imagenet"}
WAYS = (("torch", "f32"), ("openvino", "f32"), ("openvino", "bf16"), ("openvino", "int8"))
TIMED = (*WAYS[:1], ("torch", "bf16"), *WAYS[1:])
HEADER = ["set", "pictures", "runtime", "lowest cosine", "5 % below", "mean", "method", "top-1 %", "minus torch f32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path)
    what.add_argument("--time", action="store_true")
    parser.add_argument("--encoder", default="builtin", help="Whose times.")
    parser.add_argument("--limit", type=int, default=500, help="Pictures of each set, spread evenly.")
    options = parser.parse_args()
    if options.data:
        rows = [row for folder, config in SETS.items() for row in compare(options.data / folder, config, options.limit)]
        print(tabulate(rows, HEADER, tablefmt="github", disable_numparse=True) + "\n")
    times = best_times(options.encoder)
    rows = [[name, f"{milliseconds:.2f}", f"{cosine:.4f}"] for name, (milliseconds, cosine) in times.items()]
    print(f"{options.encoder}, {torch.get_num_threads()} threads\n")
    print(tabulate(rows, ["runtime", "ms a view", "lowest cosine"], tablefmt="github", disable_numparse=True))


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


def compare(folder: Path, config_name: str, limit: int) -> Iterator[list[Any]]:
    """Measure one set: a row a runtime and method."""
    config = load_config("folder", config_name)
    dataset = load_dataset(config, folder).limit(limit)
    inputs = dataset_prompts(dataset, config, [bundled_descriptions(config.descriptions)])
    store = Store()
    labels = torch.tensor(dataset.labels)
    exact: Tensor | None = None
    before: dict[str, Tensor] = {}
    for engine, precision in WAYS:
        encoder = load_encoder("builtin", "cpu", runtime=engine, precision=precision)
        recipe = ViewRecipe(config.views, config.crop_scale, 0)
        shards = image_features(dataset, encoder, recipe, store)
        features = torch.cat([torch.cat([whole[:, None], views], 1) for _, whole, views in shards]).float()
        exact = features if exact is None else exact
        cosines = F.cosine_similarity(features, exact, dim=-1).flatten()
        for name in ("clip", "wca"):
            method = METHODS[name]
            bank = text_bank(method, inputs, lambda texts, e=encoder: text_features(texts, e, store), config.text_scale)  # type: ignore[misc]
            parts = features.split(256)
            scores = [class_scores(method, bank, p[:, 0], p[:, 1:], image_scale=config.image_scale) for p in parts]
            right = torch.cat(scores).argmax(1) == labels
            difference = [100 * value for value in paired_interval(before.setdefault(name, right).numpy(), right.numpy())]
            yield [
                folder.name,
                len(labels),
                f"{engine} {precision}",
                f"{cosines.min():.4f}",
                f"{cosines.quantile(0.05):.4f}",
                f"{cosines.mean():.4f}",
                name,
                f"{100 * right.float().mean():.2f}",
                "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference),
            ]


if __name__ == "__main__":
    main()
