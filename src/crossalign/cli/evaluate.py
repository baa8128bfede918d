"""`crossalign evaluate`: accuracies of methods on a dataset."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.configs import Config
    from crossalign.descriptions import Descriptions
    from crossalign.methods import Method


@click.command()
@click.option("--dataset", "--dataset_name", "dataset_name", help="See `crossalign datasets`.")
@click.option("--data-path", "--data_path", type=click.Path(), help="The dataset's folder [default: the config's].")
@click.option("--config", "config_name", help="A YAML file or a bundled config's name [default: the dataset's].")
@click.option("--encoder", help="See `crossalign encoders` [default: the config's].")
@click.option("--methods", help="Comma separated, or all; see `crossalign methods` [default: all that can run].")
@click.option("--views", type=click.IntRange(1), help="Local views a picture [default: the config's].")
@click.option("--runs", type=click.IntRange(1), help="How often wca re-draws its views [default: the config's].")
@click.option("--crop-scale", help="released (0.1,0.9), written (0.5,0.9; Places365 0.7,0.9) or LOW,HIGH.")
@click.option("--descriptions", multiple=True, type=click.Path(), help="JSON {class: [text]}; may be repeated.")
@click.option(
    "--class-names",
    type=click.Choice(["tidy", "published"]),
    default="tidy",
    show_default=True,
    help="Published: as the papers' programs derive them, alike ones included.",
)
@click.option("--allow-missing", is_flag=True, help="The prompt stands for a class that --descriptions lack.")
@click.option("--batch-size", "--batch_size", type=click.IntRange(1), help="Pictures a batch [default: the config's].")
@click.option("--limit", type=click.IntRange(1), help="Only that many pictures, spread evenly over the dataset.")
@click.option("--download", is_flag=True, help="Fetch the dataset first, where torchvision can.")
@click.option("--output", type=click.Path(), help="Write the results there as JSON.")
@click.option("--report", type=click.Path(), help="Write an HTML page of accuracies by method and class there.")
@common.form_option
@common.seed_option
@common.workers_option
@common.device_option
@common.store_option
def command(**options: Any) -> None:
    """Measure methods on a dataset and print a table.

    Pictures are encoded once and kept, so a second call with other methods or scales takes seconds; a stopped call goes on
    where it was.

    \b
    Examples:
      crossalign evaluate --dataset oxford_pet --data-path data/pets
      crossalign evaluate --dataset folder --data-path my-photos --encoder builtin --descriptions my-classes.json
      crossalign evaluate --dataset imagenet --encoder open_clip:ViT-B-16/openai --methods cupl,wca --output b16.json
      crossalign evaluate --dataset folder --data-path pets --config oxford_pet     # pets' names, templates, descriptions
    """
    config = _config(options)
    file, page = (common.check_output(options[key]) if options[key] else None for key in ("output", "report"))
    descriptions = _descriptions(config, options["descriptions"])
    methods = _methods(options["methods"], descriptions)

    from crossalign.datasets import load_dataset
    from crossalign.encoders import load_encoder
    from crossalign.evaluation import evaluate
    from crossalign.files import write_whole
    from crossalign.store import Store
    from crossalign.tables import results_table

    start = time.perf_counter()
    dataset = load_dataset(config, options["data_path"], download=options["download"], names=options["class_names"])
    if options["limit"]:
        dataset = dataset.limit(options["limit"])
    click.echo(f"{dataset.name}: {len(dataset.paths)} pictures, {len(dataset.class_names)} classes", err=True)
    encoder = load_encoder(config.encoder, options["device"])
    loading = round(time.perf_counter() - start, 3)
    done = evaluate(
        dataset,
        encoder,
        config,
        methods,
        descriptions=descriptions,
        store=Store(options["store"]),
        seed=options["seed"],
        form=options["form"],
        allow_missing=options["allow_missing"],
        num_workers=options["num_workers"],
        progress=common.progress_bar,
    )
    done.timing = {"loading": loading} | done.timing
    if file:
        write_whole(file, (common.to_json(done.to_dict()) + "\n").encode())
    if page:
        from crossalign.report import methods_report

        write_whole(page, methods_report(done).encode())
    click.echo(results_table([done.to_dict()]))
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in done.timing.items())
    click.echo(f"{stages}; {done.encoded} pictures encoded now, {len(dataset.paths) - done.encoded} kept before", err=True)


def _config(options: dict[str, Any]) -> Config:
    """Load the config and put what was given on the command line over it."""
    from crossalign.configs import load_config

    dataset, measured_as = options["dataset_name"], options["config_name"]
    if dataset is None and measured_as is None:
        raise InputError("no dataset given; name one with --dataset (see `crossalign datasets`)")
    config = load_config(measured_as) if dataset is None else load_config(dataset, measured_as)
    changes: dict[str, Any] = {key: options[key] for key in ("encoder", "views", "runs", "batch_size")}
    changes["sampled_views"] = options["views"]
    config = replace(config, **{key: value for key, value in changes.items() if value is not None})
    return _with_crop_scale(config, options["crop_scale"])


def _with_crop_scale(config: Config, text: str | None) -> Config:
    if text is None:
        return config
    if text in ("released", "written"):
        return replace(config, crop_scale=(0.1, 0.9) if text == "released" else config.crop_scale_written)
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--crop-scale is {text!r}, but must be released, written or two shares such as 0.1,0.9") from None
    return replace(config, crop_scale=(low, high))


def _descriptions(config: Config, files: tuple[str, ...]) -> list[Descriptions]:
    from crossalign.descriptions import bundled_descriptions, bundled_names, load_descriptions

    if files:
        return [load_descriptions(file) for file in files]
    return [bundled_descriptions(config.descriptions)] if config.descriptions in bundled_names() else []


def _methods(names: str | None, descriptions: list[Descriptions]) -> list[Method]:
    from crossalign.methods import pick_methods

    chosen = pick_methods([name.strip() for name in (names or "all").split(",")])
    if descriptions or not (lacking := [method.name for method in chosen if method.needs_descriptions]):
        return chosen
    if names is not None:
        raise InputError(f"{', '.join(lacking)} need descriptions of the classes; give --descriptions FILE.json")
    click.echo(f"left out, since no --descriptions were given: {', '.join(lacking)}", err=True)
    return [method for method in chosen if not method.needs_descriptions]
