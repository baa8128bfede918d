"""Measure all methods and the controls on three sets with the embedded encoder, and write the tables of docs/methods.md.

    python benchmarks/methods.py --data ../shared/data --output docs/methods.md

Each set is one call of `evaluation.evaluate.evaluate`; each image's 61 passes come from the store, or are made first.
Nothing is tuned: configs, descriptions and options are those that ship with the package.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate

from crossalign.datasets import ImageDataset, load_dataset
from crossalign.datasets.configs import Config, load_config
from crossalign.encoders import Encoder, load_encoder
from crossalign.evaluation.evaluate import dataset_prompts, evaluate
from crossalign.evaluation.results import Evaluation
from crossalign.evaluation.statistics import Comparison, compare, wilson_interval
from crossalign.features.pipeline import encode_images, image_features, text_features
from crossalign.images.crops import ViewRecipe
from crossalign.methods.method import Method, ScoreConfig, WeightedMean
from crossalign.methods.registry import METHODS, uniform_weights, with_prompts
from crossalign.methods.scoring import class_scores, text_features_of
from crossalign.store.shards import Store
from crossalign.text.descriptions import bundled_descriptions
from crossalign.text.prompts import CONTROLS

SETS = {
    "oxford_pets370": ("oxford_pet", "37 breeds of cats and dogs, 10 images each."),
    "imagenet_sample1000": (
        "imagenet",
        "1000 classes, one image each: training images of ImageNet, which the encoder's classifier has seen with their "
        "labels. The level says nothing of new images; only differences between methods count.",
    ),
    "flowers102_test1020": (
        "flowers102",
        "102 flowers, 10 images each, from the official test split. The embedded encoder sees an image through "
        "ImageNet's 1000 classes, hardly any of which is a flower: it is close to blind here.",
    ),
}
HEAD = """# Methods

Made by `python benchmarks/methods.py --data DATA --output docs/methods.md{sets}` with the embedded encoder
(`builtin`, OpenVINO in float32), which is no CLIP; CLIP's weights could not be reached where this was run, so these tables
say nothing of how the methods compare with CLIP. Configs, bundled descriptions and options are the defaults; nothing was
tuned on these images. Intervals are 95 %: Wilson's for an accuracy, bootstrap over images for a difference. p is of the
exact McNemar test after Holm's correction over all comparisons of a set; an asterisk marks p < 0.05 with an interval on one
side of zero. `wca` and `mean-views` are means over 20 resampled runs of the 60 views. All methods see the same views and
texts (`--protocol shared`), so `bifta`, which is a way to choose views, has no row. A pass is one run of the image encoder.
"""
TOGETHER = ("oxford_pets370", "imagenet_sample1000")
"""Sets that are also judged all at once."""
TRANSDUCTIVE = """## Transductive

`crossalign evaluate --transductive` runs the methods that classify all images of a set together. These rows are not
comparable with the tables above, and since the images are no independent trials, they have no intervals. The inductive
accuracy is that of the global view and the same texts, each image on its own. What the table says of one set, of this size
and with as many images per class, it does not say of another. With one image per class, as in imagenet_sample1000, there is
no other image to learn a class from: transduction is pointless there, and is shown for what it then does.
"""
PLAIN = replace(METHODS["wca"], name="wca, plain text weights", text_weights="uniform")
VIEWS = replace(METHODS["wca"], name="wca, plain view weights", score=WeightedMean(uniform_weights))
ALONE = {name: method for name, method in METHODS.items() if method.single_image}
JOINTLY = [method for method in METHODS.values() if method.transductive]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sets", help="Comma separated, of the three above [default: all].")
    parser.add_argument("--times", action="store_true", help="Also time each method, on an otherwise idle machine.")
    options = parser.parse_args()
    names = options.sets.split(",") if options.sets else list(SETS)
    encoder = load_encoder("builtin", "cpu", runtime="openvino", precision="f32")
    parts = [HEAD.replace("{sets}", f" --sets {options.sets}" if options.sets else "")]
    parts += [section(options.data / name, *SETS[name], encoder, options.times) for name in names]
    parts.append(transductive([options.data / name for name in names if name in TOGETHER], encoder))
    options.output.write_text("\n".join(parts), encoding="utf-8")


def section(folder: Path, config_name: str, note: str, encoder: Encoder, timed: bool) -> str:
    """Measure one set."""
    config = load_config("folder", config_name)
    dataset = load_dataset(config, folder)
    controls = [with_prompts(METHODS[name], source) for name in ("wca", "cupl") for source in CONTROLS]
    methods = [*ALONE.values(), PLAIN, VIEWS, *controls]
    done = evaluate(
        dataset,
        encoder,
        config,
        methods,
        descriptions=[bundled_descriptions(config.descriptions)],
        store=Store(),
        allow_missing=True,
    )
    right = {result.method: result.right for result in done.results}
    others = [method for method in ALONE.values() if method.name not in ("clip", "mean-views")]
    of_views = [method.name for method in others if method.uses_views]
    pairs = {
        "clip": [("clip", method.name) for method in others],
        "mean-views": [("mean-views", name) for name in of_views],
        "weights": [(PLAIN.name, "wca"), (VIEWS.name, "wca")],
        "controls": [(method.name, method.name.split("+")[0]) for method in controls],
    }
    found = iter(compare(right, [pair for group in pairs.values() for pair in group]))
    tests = {name: [next(found) for _ in group] for name, group in pairs.items()}
    seconds = _times(dataset, encoder, config, list(ALONE.values())) if timed else {}
    return "\n".join(
        [
            f"## {folder.name}\n\n{note}\n",
            _methods_table(done, tests, seconds),
            "\nWhat each kind of weights adds to the other, and what descriptions add to controls in their place:\n",
            _pairs_table(done, [*tests["weights"], *tests["controls"]]),
            "",
            _verdict(tests),
            "",
        ]
    )


def transductive(folders: Sequence[Path], encoder: Encoder) -> str:
    """Classify all images of each set together."""
    rows = []
    for folder in folders:
        config = load_config("folder", SETS[folder.name][0])
        done = evaluate(
            load_dataset(config, folder),
            encoder,
            config,
            [METHODS["clip"]],
            descriptions=[bundled_descriptions(config.descriptions)],
            store=Store(),
            allow_missing=True,
            transductive=JOINTLY,
        )
        for row in done.transductive:
            minus = f"{row.top1 - row.inductive_top1:+.2f}"
            rows.append([folder.name, row.method, f"{row.top1:.2f}", f"{row.inductive_top1:.2f}", minus, row.n])
    header = ["set", "method", "top-1 %", "inductive top-1 %", "minus inductive", "n"]
    return f"{TRANSDUCTIVE}\n{tabulate(rows, header, tablefmt='github', disable_numparse=True)}\n"


def _methods_table(done: Evaluation, tests: dict[str, list[Comparison]], seconds: dict[str, float]) -> str:
    accuracy = _accuracies(done)
    against = {group: {test.second: _difference(test) for test in tests[group]} for group in ("clip", "mean-views")}
    rows = [
        [
            name,
            *accuracy[name],
            *(against[group].get(name, "") for group in ("clip", "mean-views")),
            method.passes,
            *([f"{1000 * seconds[name]:.0f}"] if seconds else []),
        ]
        for name, method in ALONE.items()
    ]
    header = ["method", "top-1 %", "95 % interval", "minus clip", "minus mean-views", "passes"]
    header += ["ms per image"] if seconds else []
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _pairs_table(done: Evaluation, tests: list[Comparison]) -> str:
    accuracy = _accuracies(done)
    rows = [
        [test.second, accuracy[test.second][0], test.first, accuracy[test.first][0], _difference(test), f"{test.p_holm:.2g}"]
        for test in tests
    ]
    header = ["method", "top-1 %", "compared with", "top-1 %", "difference", "p"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _verdict(tests: dict[str, list[Comparison]]) -> str:
    def named(group: str, better: bool) -> str:
        names = [t.second for t in tests[group] if t.significant and (t.difference > 0) == better]
        return ", ".join(names) or "none"

    lines = [
        f"Significantly above clip: {named('clip', True)}; below: {named('clip', False)}.",
        f"Significantly above the mean of views: {named('mean-views', True)}; below: {named('mean-views', False)}.",
        *(
            f"{what} weights: {_difference(test)} points, {'' if test.significant else 'not '}significant."
            for what, test in zip(("Text", "View"), tests["weights"], strict=True)
        ),
        "Controls that the descriptions beat significantly: "
        + (", ".join(test.first for test in tests["controls"] if test.significant and test.difference > 0) or "none")
        + ".",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _accuracies(done: Evaluation) -> dict[str, tuple[str, str]]:
    found = {}
    for result in done.results:
        n, top1 = len(result.ranks), float(result.right.mean())
        low, high = wilson_interval(top1 * n, n)
        found[result.method] = f"{100 * top1:.2f}", f"{100 * low:.2f} to {100 * high:.2f}"
    return found


def _difference(test: Comparison) -> str:
    return f"{test.difference:+.2f} ({test.low:+.2f} to {test.high:+.2f}){'*' * test.significant}"


def _times(dataset: ImageDataset, encoder: Encoder, config: Config, methods: list[Method]) -> dict[str, float]:
    """Give each method's seconds per image: its passes, decoding and cropping included, and its scoring."""
    part = dataset.limit(8)
    passes = {}
    for views in (0, config.views):
        recipe = ViewRecipe(views, config.crop_scale, 1)
        work = zip(part.paths, part.indices, strict=True)
        start = time.perf_counter()
        for _ in encode_images(work, encoder, recipe, num_workers=2):
            pass
        passes[views] = (time.perf_counter() - start) / len(part.paths)
    store = Store()
    inputs = dataset_prompts(dataset, config, [bundled_descriptions(config.descriptions)], allow_missing=True)
    recipe = ViewRecipe(config.views, config.crop_scale, 0)
    _, whole, views_ = next(iter(image_features(dataset, encoder, recipe, store)))
    whole, views_ = whole[:64].float(), views_[:64].float()
    seconds = {}
    for method in methods:
        scales = ScoreConfig(config.image_scale, config.text_scale, logit_scale=encoder.logit_scale)
        texts = text_features_of(method, inputs, lambda texts: text_features(texts, encoder, store), scales)
        start = time.perf_counter()
        with torch.inference_mode():
            class_scores(method, texts, whole, views_, scales)
        scoring = (time.perf_counter() - start) / len(whole)
        seconds[method.name] = passes[config.views if method.uses_views else 0] + scoring
    return seconds


if __name__ == "__main__":
    main()
