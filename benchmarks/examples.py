"""Classes by example images: accuracy of texts, of examples, and of both together.

    python benchmarks/examples.py --data ../shared/data

In each set the first 5 files by name of each class are its examples, and the other 5 are classified. "leave-one-out" is what
the examples alone say of each side; the share of the texts' score is chosen by it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from crossalign.classifier import Classifier
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.encoders import load_encoder
from crossalign.evaluation.statistics import wilson_interval
from crossalign.store.shards import Store

SETS = {"oxford_pets370": "pet", "flowers102_test1020": "flower"}
EXAMPLES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="A folder with the sets in it.")
    parser.add_argument("--encoder", default="builtin")
    parser.add_argument("--views", type=int, nargs="+", default=[0, 12, 24, 60], help="Local views; 0 is the method clip.")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options = parser.parse_args()
    encoder = load_encoder(options.encoder)
    rows = []
    for name in options.sets:
        examples, tested = _split(options.data / name)
        for views in options.views:
            for side in ("examples", "together"):
                classify = Classifier(
                    list(examples) if side == "together" else None,
                    encoder=encoder,
                    method="wca" if views else "clip",
                    examples=examples,
                    domain=SETS[name],
                    views=views or None,
                    store=Store(),
                )
                results = classify.stream(image for image, _ in tested)
                right = sum(result.label == label for result, (_, label) in zip(results, tested, strict=True))
                low, high = wilson_interval(right, len(tested))
                known = classify.scorer.examples
                assert known is not None
                rows.append(
                    [
                        name,
                        views,
                        side,
                        len(tested),
                        f"{100 * right / len(tested):.1f}",
                        f"{100 * low:.1f} to {100 * high:.1f}",
                        f"{known.mixture.share:.2f}",
                        _percent(known.mixture.texts),
                        _percent(known.mixture.examples),
                        _percent(known.mixture.together),
                    ]
                )
                print(rows[-1], flush=True)
    header = [
        "set",
        "views",
        "side",
        "images",
        "top-1 %",
        "95 % interval",
        "share of texts",
        "texts",
        "examples",
        "together",
    ]
    print(f"\n{encoder.name}; share: of the texts in the score; the last three columns are leave-one-out\n")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def _split(folder: Path) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Give the examples by class, and the other (image, class)."""
    dataset = load_dataset(load_config("folder"), folder)
    by_class: dict[str, list[str]] = {name: [] for name in dataset.class_names}
    for path, label in zip(dataset.paths, dataset.labels, strict=True):
        by_class[dataset.class_names[label]].append(str(path))
    ordered = {name: sorted(paths) for name, paths in by_class.items()}
    tested = [(path, name) for name, paths in ordered.items() for path in paths[EXAMPLES:]]
    return {name: paths[:EXAMPLES] for name, paths in ordered.items()}, tested


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
