"""`crossalign evaluate --examples` and `--calibration-file`: a classifier as `classify` uses it, on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.classifier.calibration import Calibration
    from crossalign.cli._evaluate_options import Options
    from crossalign.datasets import ImageDataset
    from crossalign.datasets.examples import Examples

EXCLUDED = ("budget", "prompts", "runs", "transductive", "calibration", "report", "crop_scale")
"""Options of `evaluate` that have no meaning here."""


def measure(options: Options) -> None:
    """Measure texts, examples and both together, print a table, and write the calibration file if one is wanted."""
    _check(options)
    config = options.dataset_options.config()
    results = common.check_output(options.output) if options.output else None
    calibration = common.check_output(options.calibration_file) if options.calibration_file else None
    dataset = options.dataset_options.open(config)
    encoder = common.load_encoder(config.encoder, options.encoder_options)

    from tabulate import tabulate

    from crossalign.classifier import Classifier
    from crossalign.classifier.calibration import made_with
    from crossalign.datasets.examples import find_examples
    from crossalign.evaluation.answers import calibrate, measure_answers
    from crossalign.store.files import write_atomically

    names = list(dataset.class_names)
    examples = find_examples(options.examples, names) if options.examples else None
    if examples is not None:
        _check_apart(examples, dataset)
    descriptions = options.descriptions[0] if options.descriptions else None
    settings: dict[str, Any] = {
        "encoder": encoder,
        "method": options.methods or "wca",
        "domain": config.domain,
        "views": options.views,
        "form": options.form,
        "seed": options.seed,
        "num_workers": options.num_workers,
        "store": common.open_store(options.store),
        "progress": common.progress_bar,
    }
    styled = measuring.styled_descriptions(descriptions, options.description_style)
    sides: dict[str, Any] = {"texts": {"labels": names, "descriptions": styled}}
    if examples is not None:
        sides |= {"examples": {"examples": examples}}
        sides |= {"together": {"labels": names, "descriptions": styled, "examples": examples}}
    rows: list[dict[str, Any]] = []
    fitted: list[Calibration] = []
    for side, known in sides.items():
        classify = Classifier(**known, **settings)
        answers = measure_answers(classify, dataset, common.progress_bar)
        if classify.scorer.examples and side == "together":
            click.echo(f"examples: {classify.scorer.examples.mixture}", err=True)
        low, high = answers.interval
        rows.append(
            {
                "side": side,
                "top1": 100 * answers.right / len(answers.labels),
                "ci95": [100 * low, 100 * high],
                "n": len(answers.labels),
                "views": answers.views,
                "share of texts": classify.scorer.share,
            }
        )
        if calibration is not None:
            made = made_with(encoder, classify.scorer)
            try:
                fitted.append(calibrate(answers.scores, answers.labels, options.answer_precision, made))
                rows[-1]["calibration"] = str(fitted[-1])
            except InputError as error:
                rows[-1]["calibration"] = f"none: {error}"
    shown = [
        [row["side"], f"{row['top1']:.1f}", f"{row['ci95'][0]:.1f} to {row['ci95'][1]:.1f}", row["n"], f"{row['views']:.1f}"]
        for row in rows
    ]
    click.echo(tabulate(shown, ["side", "top-1 %", "95 % interval", "images", "views"], tablefmt="github"))
    if results is not None:
        content = {"encoder": encoder.name, "method": settings["method"], "dataset": dataset.name, "results": rows}
        write_atomically(results, (common.to_json(content) + "\n").encode())
    if calibration is not None:
        _write_calibration(calibration, fitted, rows)


def _write_calibration(file: Path, fitted: list[Calibration], rows: list[dict[str, Any]]) -> None:
    """Write what could be calibrated, and say what it is worth.

    Raises:
        InputError: nothing could be calibrated.
    """
    from crossalign.classifier.calibration import Calibrations

    click.echo()
    for row in rows:
        click.echo(f"{row['side']}: {row['calibration']}")
    if not fitted:
        raise InputError("nothing could be calibrated, so no file was written")
    Calibrations(tuple(fitted)).write(file)
    click.echo(f"calibration: {file}", err=True)


def _check(options: Options) -> None:
    given = [f"--{name.replace('_', '-')}" for name in EXCLUDED if getattr(options, name)]
    given += ["--fresh-seeds"] if options.fresh_seeds > 1 else []
    given += ["--protocol released"] if options.protocol != "shared" else []
    given += ["--executor ray"] if options.cluster.ray else []
    if given:
        raise InputError(
            f"--examples and --calibration-file measure a classifier as `classify` uses it, so {' and '.join(given)} means "
            "nothing there; leave it out"
        )
    if options.methods and ("," in options.methods or options.methods == "all"):
        raise InputError(f"--methods is {options.methods!r}, but a calibration is of one method; name one")
    if len(options.descriptions) > 1:
        raise InputError(f"{len(options.descriptions)} files of descriptions were given; `classify` takes one")


def _check_apart(examples: Examples, dataset: ImageDataset) -> None:
    """Refuse to test on the examples themselves.

    Raises:
        InputError: names the first image that is both.
    """
    from crossalign.features.image_cache import content_digest

    # None is what cannot be read, which is said when it is encoded.
    known = {content_digest(image) for images in examples.values() for image in images} - {None}
    both = [str(path) for path in dataset.paths if content_digest(path) in known]
    if both:
        raise InputError(
            f"{len(both)} images of the dataset are examples, too ({both[0]!r} is the first), which would flatter the "
            "accuracy; test on other images"
        )
