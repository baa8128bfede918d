"""`crossalign evaluate`: accuracies of methods on a dataset."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _answers
from crossalign.cli import _cluster as clusters
from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._evaluate_options import Options
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.datasets.configs import Config
    from crossalign.methods.registry import Method
    from crossalign.text.descriptions import Descriptions


EVEN = ("photo", "templates", "many-templates", "first-sentences", "waffle")
"""Sources of prompts that give each class the same number of prompts."""


@click.command(cls=GroupedCommand)
@measuring.dataset_options
@click.option("--descriptions", multiple=True, type=click.Path(), help="JSON {class: [text]}; may be repeated.")
@measuring.description_style_option
@measuring.allow_missing_option
@click.option(
    "--methods",
    help="Comma separated, or all; see `crossalign methods` [default: all that can run with the given descriptions].",
)
@click.option(
    "--protocol",
    type=click.Choice(["shared", "released"]),
    default="shared",
    show_default=True,
    help="shared: all methods see the same views and texts. released: each method sees the views and texts of its authors' "
    "program.",
)
@click.option("--views", type=click.IntRange(1), help="Local views per image [default: from the config].")
@measuring.crop_scale_option
@click.option(
    "--budget",
    metavar="VIEWSxPROMPTS",
    help="Local views per image, and the most prompts per class, such as 16x10; replaces --views.",
)
@click.option("--prompts", help="Give all methods these prompts: sentences, photo, shuffled, ...; see docs/ablate.md.")
@common.form_option
@common.seed_option
@click.option(
    "--runs",
    type=click.IntRange(1),
    help="Resampled runs of wca: each samples cached views again [default: from the config].",
)
@click.option(
    "--fresh-seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Crop new views with so many seeds, and report how accuracy varies with them.",
)
@click.option(
    "--calibration", is_flag=True, help="Report the calibration error of the probabilities, and the fitted temperature."
)
@click.option(
    "--examples",
    type=click.Path(),
    help="Folder DIR/CLASS/images of example images: measure texts, examples and both, as `classify --examples` uses them.",
)
@click.option(
    "--calibration-file",
    type=click.Path(),
    help="Fit probabilities and a threshold on the dataset, and write them for `classify --calibration` and `serve`.",
)
@click.option(
    "--answer-precision",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Of --calibration-file: share of right answers among those that reach the threshold.",
)
@click.option(
    "--transductive",
    is_flag=True,
    help="Also run the methods that classify all images together (transclip, stata, carprt), in a table of their own.",
)
@click.option("--output", type=click.Path(), help="Write the results to this JSON file.")
@click.option("--report", type=click.Path(), help="Write an HTML page with accuracies by method and class.")
@common.encoder_options
@common.workers_option
@clusters.executor_options
@common.store_option
def command(**values: Any) -> None:
    """Measure the accuracy of methods on a dataset, and print a table.

    Features of images are cached. A second call with other methods or scales takes seconds, and a call that was stopped
    resumes.

    \b
    Examples:
      crossalign evaluate --dataset oxford_pet --data-path data/pets
      crossalign evaluate --dataset folder --data-path my-photos --encoder builtin --descriptions my-classes.json
      crossalign evaluate --dataset oxford_pet --data-path data/pets --fresh-seeds 5 --calibration --output pets.json
      crossalign evaluate --dataset dtd --methods cupl,wca --budget 16x10 --prompts shuffled
      crossalign evaluate --dataset imagenet --encoder open_clip:ViT-B-16/openai --methods cupl,wca --output b16.json
      crossalign evaluate --dataset folder --data-path pets --config oxford_pet     # pets' names, templates, descriptions
      crossalign evaluate --dataset folder --data-path labelled --examples examples/ --calibration-file cal.json
      crossalign evaluate --dataset imagenet --executor ray --ray-address auto --store /shared/store
    """
    options = Options(**values)
    options.cluster.check()
    if options.examples or options.calibration_file:
        _answers.measure(options)
        return
    _check_released(options)
    config, most_prompts = _config(options)
    file, page = (common.check_output(path) if path else None for path in (options.output, options.report))
    descriptions = measuring.read_descriptions(config, options.descriptions, options.description_style)
    methods, transductive = _methods(options, descriptions)

    from crossalign.evaluation.evaluate import evaluate
    from crossalign.evaluation.tables import results_table, sentences, transductive_table
    from crossalign.store.files import write_atomically
    from crossalign.store.shards import Store

    start = time.perf_counter()
    dataset = options.dataset_options.open(config, "published" if options.protocol == "released" else "ours")
    encoder = common.load_encoder(config.encoder, options.cluster.for_driver(options.encoder_options))
    loading = round(time.perf_counter() - start, 3)
    with clusters.executor(options.cluster, encoder, options.encoder_options, options.num_workers) as executor:
        evaluation = evaluate(
            dataset,
            encoder,
            config,
            methods,
            descriptions=descriptions,
            protocol=options.protocol,
            store=Store(options.store),
            seed=options.seed,
            form=options.form,
            allow_missing=options.allow_missing,
            fresh_seeds=options.fresh_seeds,
            calibration=options.calibration,
            budget=most_prompts,
            transductive=transductive,
            num_workers=options.num_workers,
            executor=executor,
            progress=common.progress_bar,
        )
    evaluation.timing = {"loading": loading} | evaluation.timing
    content = evaluation.to_dict()
    if file:
        write_atomically(file, (common.to_json(content) + "\n").encode())
    if page:
        from crossalign.reports.html import methods_report

        write_atomically(page, methods_report(evaluation).encode())
    click.echo(results_table([content]))
    for sentence in sentences(content):
        click.echo(f"\n{sentence}")
    if table := transductive_table([content]):
        click.echo(f"\n{table}")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in evaluation.timing.items())
    click.echo(f"{stages}; {evaluation.encoded} images encoded now, {evaluation.cached} cached before", err=True)


def _config(options: Options) -> tuple[Config, int | None]:
    """Load the config, replace what the command line gives, and return it with the most prompts per class."""
    config = options.dataset_options.config()
    views, most_prompts = options.views, None
    if options.budget is not None:
        if views is not None:
            raise InputError(f"--budget {options.budget} and --views {views} both set the number of views; omit one")
        views, most_prompts = _budget(options.budget)
    changes: dict[str, Any] = {"runs": options.runs, "views": views, "sampled_views": views}
    if options.crop_scale is not None:
        changes["crop_scale"] = measuring.read_crop_scale(options.crop_scale, config)
    return replace(config, **{key: value for key, value in changes.items() if value is not None}), most_prompts


def _budget(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text.strip(), re.ASCII)):
        raise InputError(f"--budget is {text!r}, but must be VIEWSxPROMPTS, both at least 1, such as 16x10")
    return int(match[1]), int(match[2])


def _check_released(options: Options) -> None:
    """Refuse to change under the protocol "released" what the authors' programs fix.

    Raises:
        InputError: names the option.
    """
    if options.protocol != "released":
        return
    fixed = ("views", "budget", "prompts", "runs", "crop_scale")
    changed = [f"--{name.replace('_', '-')}" for name in fixed if getattr(options, name) is not None]
    changed += ["--form paper"] if options.form == "paper" else []
    if changed:
        raise InputError(
            f"{' and '.join(changed)} would change what the authors' programs do; leave it out, or use --protocol shared"
        )


def _methods(options: Options, descriptions: list[Descriptions]) -> tuple[list[Method], list[Method]]:
    """Choose the methods that can run: those that classify each image by itself, and the transductive ones."""
    from crossalign.methods.registry import METHODS, pick_methods, with_prompts

    names, source = options.methods, options.prompts
    chosen = pick_methods([name.strip() for name in (names or "all").split(",")])
    if options.transductive:
        chosen += [method for method in METHODS.values() if method.transductive and method not in chosen]
    if source is not None:
        chosen = [with_prompts(method, source) for method in chosen]
    if options.protocol == "released":
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
        click.echo(f"left out, since they need the same number of prompts for each class: {', '.join(uneven)}", err=True)
    chosen = [method for method in chosen if method.name not in (*lacking, *uneven)]
    return [m for m in chosen if not m.transductive], [m for m in chosen if m.transductive]
