"""Time the scoring of encoded views: the loop that `crossalign evaluate` runs, on random features of any size.

    python benchmarks/scoring.py                  # ImageNet's size: 50,000 images, 60 views, 1000 classes, 20 runs
    python benchmarks/scoring.py --methods all --images 5000
    python benchmarks/scoring.py --quick

The features are on disk, in shards as `crossalign evaluate` writes them, in a temporary folder. The shares come from a
profile of the first images, scored again in one thread; reading includes the check of the digest.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from crossalign.datasets.configs import load_config
from crossalign.evaluation.protocols import plan
from crossalign.evaluation.ranks import Scorer, score_shards
from crossalign.features.pipeline import ImageFeatures, images_per_shard
from crossalign.methods.method import Method, ScoreConfig, TextFeatures
from crossalign.methods.registry import pick_methods
from crossalign.methods.scoring import text_features_of
from crossalign.store.shards import ShardFolder, Store
from crossalign.text.prompts import PromptInputs, prompt_inputs

SIX = ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca")
PROFILED = 320
STEPS = {
    "reading": ("shards.py", "read"),
    "view weights": ("alignment.py", "view_weights"),
    "view pooling": ("alignment.py", "pool_views"),
    "class scores": ("alignment.py", "scores"),
    "ranks": ("ranks.py", "true_ranks"),
}


def write_features(shards: ShardFolder, images: int, views: int, width: int) -> ImageFeatures:
    generator = torch.Generator().manual_seed(0)
    each = images_per_shard(views)
    for shard, start in enumerate(range(0, images, each)):
        number = min(each, images - start)
        features = F.normalize(torch.randn(number, 1 + views, width, generator=generator), dim=-1).half()
        shards.write(shard, {"global_view": features[:, 0], "views": features[:, 1:]})
    return ImageFeatures(images, 0, shards, each)


def random_texts(classes: int) -> PromptInputs:
    from crossalign.text.descriptions import Descriptions

    names = [f"thing number {number}" for number in range(classes)]
    sentences = {name: tuple(f"A {name} has the part {part}." for part in range(10)) for name in names}
    descriptions = [
        Descriptions("random", "sentences", sentences),
        Descriptions("random", "descriptors", dict.fromkeys(names, ("has a tail", "is red"))),
    ]
    return prompt_inputs(names, descriptions=descriptions, templates=load_config("imagenet").templates)


def with_texts(names: Sequence[str], classes: int, width: int) -> list[tuple[Method, TextFeatures]]:
    generator = torch.Generator().manual_seed(1)
    inputs = random_texts(classes)

    def encode(texts: object) -> Tensor:
        return F.normalize(torch.randn(len(texts), width, generator=generator), dim=-1)  # type: ignore[arg-type]

    return [(method, text_features_of(method, inputs, encode)) for method in pick_methods(names) if method.single_image]


def seconds_by_step(work: Callable[[], object]) -> dict[str, float]:
    profile, start = cProfile.Profile(), time.perf_counter()
    profile.runcall(work)
    seconds = time.perf_counter() - start
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    found = {(file.rsplit("/", 1)[-1], name): timing[3] for (file, _, name), timing in stats.items()}
    steps = {step: found.get(where, 0.0) for step, where in STEPS.items()}
    return steps | {"the rest": seconds - sum(steps.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--methods", default=",".join(SIX), help="Comma separated, or all [default: the paper's six].")
    parser.add_argument("--workers", type=int, default=2, help="threads that score")
    parser.add_argument("--quick", action="store_true", help="1024 images, 100 classes: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.images, options.classes = 1024, 100
    config = replace(load_config("imagenet"), views=options.views, sampled_views=options.views, runs=options.runs)
    with tempfile.TemporaryDirectory(prefix="crossalign-scoring-") as folder:
        shards = Store(folder).open({"kind": "views", "random": True})
        features = write_features(shards, options.images, options.views, options.width)
        methods = with_texts(options.methods.split(","), options.classes, options.width)
        labels = torch.arange(options.images) % options.classes
        rows = plan([method for method, _ in methods], config, "shared", 0)
        texts = [of_method for _, of_method in methods]
        scorer = Scorer(list(zip(rows, texts, strict=True)), ScoreConfig(), 0, labels, range(options.images))
        score = partial(score_shards, scorer=scorer)
        start = time.perf_counter()
        score(features, num_workers=options.workers)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        torch.set_num_threads(1)
        shares = seconds_by_step(lambda: score(islice(features, PROFILED), num_workers=0))
    gigabytes = options.images * (1 + options.views) * options.width * 2 / 1e9
    size = f"{options.images} x {1 + options.views} x {options.width}, {options.classes} classes, {options.runs} runs"
    print(f"{size}, {len(methods)} methods, {options.workers} threads")
    print(f"{seconds:.1f} s, {gigabytes / seconds:.2f} GB/s of {gigabytes:.2f} GB, at most {peak:.2f} GiB of memory\n")
    steps = [[step, f"{100 * of_step / sum(shares.values()):.0f} %"] for step, of_step in shares.items()]
    print(tabulate(steps, ["step", "share of the work"], tablefmt="github"))


if __name__ == "__main__":
    main()
