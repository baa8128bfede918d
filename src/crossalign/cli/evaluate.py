"""`crossalign evaluate`: accuracies of methods on a dataset."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.datasets.configs import Config
    from crossalign.methods.registry import Method
    from crossalign.text.descriptions import Descriptions


EVEN = ("photo", "templates", "many-templates", "first-sentences", "waffle")
"""Prompts of which each class has the same number."""


@click.command()
@measuring.dataset_options
@click.option("--methods", help="Comma separated, or all; see `crossalign methods` [default: all that can run].")
@click.option(
    "--protocol",
    type=click.Choice(["shared", "released"]),
    default="shared",
    show_default=True,
    help="shared: all methods see the same views and texts; released: each sees those of its authors' program.",
)
@click.option("--views", type=click.IntRange(1), help="Local views a picture [default: the config's].")
@click.option("--budget", help="VIEWSxSENTENCES, such as 16x10: so many views, and at most so many prompts a class.")
@click.option("--prompts", help="Give all methods these prompts: sentences, photo, shuffled, ...; see docs/ablate.md.")
@click.option("--runs", type=click.IntRange(1), help="How often wca re-draws its views [default: the config's].")
@click.option(
    "--fresh-seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Cut the views anew with so many seeds, and tell the noise of crops.",
)
@click.option("--calibration", is_flag=True, help="Measure the probabilities: calibration error and fitted temperature.")
@click.option(
    "--transductive",
    is_flag=True,
    help="Also run the methods that judge all images together (transclip, stata, carprt), in a table of their own.",
)
@click.option("--crop-scale", help="released (0.1,0.9), written (0.5,0.9; Places365 0.7,0.9) or LOW,HIGH.")
@click.option("--descriptions", multiple=True, type=click.Path(), help="JSON {class: [text]}; may be repeated.")
@measuring.description_style_option
@click.option("--allow-missing", is_flag=True, help="The prompt stands for a class that --descriptions lack.")
@click.option("--output", type=click.Path(), help="Write the results there as JSON.")
@click.option("--report", type=click.Path(), help="Write an HTML page of accuracies by method and class there.")
@common.form_option
@common.seed_option
@common.workers_option
@common.device_option
@common.runtime_options
@clusters.executor_options
@common.store_option
def command(**options: Any) -> None:
    """Measure methods on a dataset and print a table.

    Pictures are encoded once and kept, so a second call with other methods or scales takes seconds; a stopped call goes on
    where it was.

    \b
    Examples:
      crossalign evaluate --dataset oxford_pet --data-path data/pets
      crossalign evaluate --dataset folder --data-path my-photos --encoder builtin --descriptions my-classes.json
      crossalign evaluate --dataset oxford_pet --data-path data/pets --fresh-seeds 5 --calibration --output pets.json
      crossalign evaluate --dataset dtd --methods cupl,wca --budget 16x10 --prompts shuffled
      crossalign evaluate --dataset imagenet --encoder open_clip:ViT-B-16/openai --methods cupl,wca --output b16.json
      crossalign evaluate --dataset folder --data-path pets --config oxford_pet     # pets' names, templates, descriptions
      crossalign evaluate --dataset imagenet --executor ray --ray-address auto --store /shared/store
    """
    clusters.check_executor(options)
    _check_released(options)
    options["class_names"] = options["class_names"] or ("published" if options["protocol"] == "released" else "ours")
    config, budget = _config(options)
    file, page = (common.check_output(options[key]) if options[key] else None for key in ("output", "report"))
    descriptions = measuring.read_descriptions(config, options["descriptions"], options["description_style"])
    methods, transductive = _methods(options, descriptions)

    from crossalign.evaluation.evaluate import evaluate
    from crossalign.evaluation.tables import results_table, sentences, transductive_table
    from crossalign.store.files import write_atomically
    from crossalign.store.shards import Store

    start = time.perf_counter()
    dataset = measuring.open_dataset(config, options)
    encoder = common.load_encoder(config.encoder, clusters.for_driver(options))
    loading = round(time.perf_counter() - start, 3)
    with clusters.executor(options, encoder) as executor:
        done = evaluate(
            dataset,
            encoder,
            config,
            methods,
            descriptions=descriptions,
            protocol=options["protocol"],
            store=Store(options["store"]),
            seed=options["seed"],
            form=options["form"],
            allow_missing=options["allow_missing"],
            fresh_seeds=options["fresh_seeds"],
            calibration=options["calibration"],
            budget=budget,
            transductive=transductive,
            num_workers=options["num_workers"],
            executor=executor,
            progress=common.progress_bar,
        )
    done.timing = {"loading": loading} | done.timing
    content = done.to_dict()
    if file:
        write_atomically(file, (common.to_json(content) + "\n").encode())
    if page:
        from crossalign.reports.html import methods_report

        write_atomically(page, methods_report(done).encode())
    click.echo(results_table([content]))
    for sentence in sentences(content):
        click.echo(f"\n{sentence}")
    if together := transductive_table([content]):
        click.echo(f"\n{together}")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in done.timing.items())
    click.echo(f"{stages}; {done.encoded} images encoded now, {done.cached} cached before", err=True)


def _config(options: dict[str, Any]) -> tuple[Config, int | None]:
    """Load the config, put what was given on the command line over it, and take the budget of sentences out of --budget."""
    config = measuring.dataset_config(options["dataset_name"], options["config_name"])
    views, sentences = options["views"], None
    if options["budget"] is not None:
        if views is not None:
            raise InputError(f"--budget {options['budget']} and --views {views} both say how many views; leave one out")
        views, sentences = _budget(options["budget"])
    changes: dict[str, Any] = {key: options[key] for key in ("encoder", "runs")}
    changes |= {"views": views, "sampled_views": views}
    if options["crop_scale"] is not None:
        changes["crop_scale"] = measuring.read_crop_scale(options["crop_scale"], config)
    return replace(config, **{key: value for key, value in changes.items() if value is not None}), sentences


def _budget(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text.strip(), re.ASCII)):
        raise InputError(f"--budget is {text!r}, but must be VIEWSxSENTENCES, both 1 or more, such as 16x10")
    return int(found[1]), int(found[2])


def _check_released(options: dict[str, Any]) -> None:
    """Refuse to change under the protocol "released" what the authors' programs fix.

    Raises:
        InputError: names the option.
    """
    if options["protocol"] != "released":
        return
    fixed = ("views", "budget", "prompts", "runs", "crop_scale")
    changed = [f"--{name.replace('_', '-')}" for name in fixed if options[name] is not None]
    changed += ["--form paper"] if options["form"] == "paper" else []
    if changed:
        raise InputError(
            f"{' and '.join(changed)} would change what the authors' programs do; leave it out, or use --protocol shared"
        )


def _methods(options: dict[str, Any], descriptions: list[Descriptions]) -> tuple[list[Method], list[Method]]:
    """Pick the methods that can run: those that judge each image on its own, and those that judge all together."""
    from crossalign.methods.registry import METHODS, pick_methods, with_prompts

    names, source = options["methods"], options["prompts"]
    chosen = pick_methods([name.strip() for name in (names or "all").split(",")])
    if options["transductive"]:
        chosen += [method for method in METHODS.values() if method.transductive and method not in chosen]
    if source is not None:
        chosen = [with_prompts(method, source) for method in chosen]
    if options["protocol"] == "released":
        chosen = [method.as_released() for method in chosen]
    elif names is None or "all" in names.split(","):
        chosen = [method for method in chosen if not method.own_views]
    lacking = [] if descriptions else [method.name for method in chosen if method.needs_descriptions]
    if lacking and (names is not None or len(lacking) == len(chosen)):
        raise InputError(f"{', '.join(lacking)} need descriptions of the classes; give --descriptions FILE.json")
    uneven = [] if names or source in (None, *EVEN) else [method.name for method in chosen if method.even_prompts]
    if lacking:
        click.echo(f"left out, since no --descriptions were given: {', '.join(lacking)}", err=True)
    if uneven:
        click.echo(f"left out, since they take as many prompts for each class: {', '.join(uneven)}", err=True)
    chosen = [method for method in chosen if method.name not in (*lacking, *uneven)]
    return [m for m in chosen if not m.transductive], [m for m in chosen if m.transductive]
