"""`crossalign demo`: WCA and all baselines on photos from an installed package; downloads nothing."""

from __future__ import annotations

import time

import click

from crossalign.cli import _common as common
from crossalign.cli._help import GroupedCommand

PHOTOS = {
    "chelsea.png": "cat",
    "coffee.png": "cup of coffee",
    "rocket.jpg": "rocket",
    "astronaut.png": "astronaut",
    "motorcycle_left.png": "motorcycle",
    "brick.png": "brick wall",
    "gravel.png": "gravel",
    "page.png": "page of text",
    "hubble_deep_field.jpg": "galaxies",
}
"""Photos in scikit-image, each with the name of what it shows."""


@click.command(cls=GroupedCommand)
@common.device_option
def command(device: str) -> None:
    """Label example photos with WCA, then measure all methods on them.

    The command takes about a minute and downloads nothing: the encoder, the photos (of scikit-image) and the descriptions
    are in installed packages.

    \b
    Example:
      crossalign demo
    """
    import tempfile
    from importlib import resources
    from pathlib import Path

    from tabulate import tabulate

    from crossalign.classifier import Classifier
    from crossalign.datasets import ImageDataset
    from crossalign.datasets.configs import load_config
    from crossalign.encoders import load_encoder
    from crossalign.evaluation.evaluate import evaluate
    from crossalign.evaluation.tables import results_table
    from crossalign.methods.registry import METHODS
    from crossalign.store.shards import Store
    from crossalign.text.descriptions import bundled_descriptions

    start = time.perf_counter()
    folder = Path(str(resources.files("skimage") / "data"))
    descriptions = bundled_descriptions("demo")
    labels = tuple(descriptions.classes)
    encoder = load_encoder("builtin", device)
    classify = Classifier(labels, descriptions, encoder=encoder)
    click.echo(f"WCA with the embedded encoder, {len(labels)} labels: {', '.join(labels)}\n")
    rows = []
    with common.progress_bar(len(PHOTOS), "photos") as bar:
        results = classify.stream(folder / name for name in PHOTOS)
        for (photo, truth), result in zip(PHOTOS.items(), results, strict=True):
            best = (f"{p.label} {p.score:.3f} ({100 * p.probability:.0f} %)" for p in result.predictions)
            rows.append([photo, truth, *best])
            bar.update(1)
    click.echo(tabulate(rows, ["photo", "true label", "first", "second", "third"]))
    dataset = ImageDataset(
        name="demo",
        root=folder,
        paths=tuple(folder / photo for photo in PHOTOS),
        labels=tuple(labels.index(label) for label in PHOTOS.values()),
        class_names=labels,
        aliases=((),) * len(labels),
        indices=tuple(range(len(PHOTOS))),
    )
    click.echo("\nThe same photos, all methods:\n")
    with tempfile.TemporaryDirectory() as store:
        evaluation = evaluate(
            dataset,
            encoder,
            load_config("folder"),
            [METHODS[name] for name in ("clip", "clip-e", "clip-d", "waffle", "cupl", "wca")],
            descriptions=[descriptions],
            store=Store(store),
            progress=common.progress_bar,
        )
    click.echo(results_table([evaluation.to_dict()]))
    click.echo(f"\n{time.perf_counter() - start:.0f} s. These few photos show that it works, not how accurate it is.")
