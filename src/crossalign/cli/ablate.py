"""`crossalign ablate`: which part of a method makes its accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.errors import InputError


@click.command()
@measuring.dataset_options
@click.option("--method", default="wca", show_default=True, help="What is taken apart: one that looks at views.")
@click.option("--axes", default="weights,views,crop-scale,form,prompts", show_default=True, help="What is varied.")
@click.option("--views", type=click.IntRange(1), help="The most views a picture [default: the config's].")
@click.option(
    "--crop-scale",
    "crop_scales",
    multiple=True,
    help="released, written or LOW,HIGH; may be repeated, the full method's first [default: the config's, then written].",
)
@click.option("--descriptions", multiple=True, type=click.Path(), help="JSON {class: [text]}; may be repeated.")
@measuring.description_style_option
@click.option("--allow-missing", is_flag=True, help="The prompt stands for a class that --descriptions lack.")
@click.option("--output", type=click.Path(), help="Write every cell there: FILE.md, FILE.csv or FILE.json.")
@click.option("--figure", type=click.Path(), help="Draw accuracy over the number of views: FILE.png, FILE.svg or FILE.pdf.")
@common.form_option
@common.seed_option
@common.workers_option
@common.device_option
@common.runtime_options
@common.store_option
def command(**options: Any) -> None:
    """Take a method apart and print what each part adds.

    The grid is view weights on and off x text weights on and off x numbers of views (1, 2, 5, 10, 20, 40, 60, 100, as far
    as --views goes) x crop scales x forms of the score. A block of controls puts other prompts in the descriptions' place:
    random words, other classes' descriptions, descriptions without the name, and the name alone as often. Every cell is
    compared with the full method on the same pictures. Each view is encoded once for all cells, and used once in each,
    without re-draws.

    \b
    Examples:
      crossalign ablate --dataset oxford_pet --data-path data
      crossalign ablate --dataset folder --data-path my-photos --descriptions my-classes.json --axes weights,views
      crossalign ablate --dataset dtd --crop-scale released --crop-scale 0.3,0.7 --output dtd.md --figure dtd.pdf
      crossalign ablate --dataset folder --data-path pets --config oxford_pet --axes prompts --limit 100
    """
    config = measuring.dataset_config(options["dataset_name"], options["config_name"])
    changes = {key: options[key] for key in ("encoder", "views") if options[key] is not None}
    config = replace(config, **changes)
    scales = [measuring.read_crop_scale(text, config) for text in options["crop_scales"]]
    if scales:
        config = replace(config, crop_scale=scales[0])
    output = _file(options["output"], "output", ("md", "csv", "json"))
    drawing = _file(options["figure"], "figure", ("png", "svg", "pdf"))
    axes = [axis.strip() for axis in options["axes"].split(",")]
    descriptions = measuring.read_descriptions(config, options["descriptions"], options["description_style"])

    from crossalign.evaluation.ablation import ablate, plan
    from crossalign.evaluation.ablation_tables import ablation_file, ablation_text
    from crossalign.methods.registry import pick_methods
    from crossalign.store.files import write_whole
    from crossalign.store.shards import Store

    if options["method"] == "all":
        raise InputError("one method is taken apart, but 'all' was given; name one, such as wca")
    (method,) = pick_methods([options["method"]])
    plan(method, axes, most=config.views, crop_scales=[config.crop_scale], form=options["form"])
    if not descriptions and (method.needs_descriptions or "prompts" in axes):
        raise InputError(
            f"{method.name} and control prompts need descriptions of the classes; give --descriptions FILE.json"
        )
    if drawing and ("views" not in axes or config.views < 2):
        raise InputError("--figure draws accuracy over the number of views; put views among --axes, and take two or more")
    found = ablate(
        measuring.open_dataset(config, options),
        common.load_encoder(config.encoder, options),
        config,
        method,
        axes=axes,
        crop_scales=scales,
        descriptions=descriptions,
        store=Store(options["store"]),
        seed=options["seed"],
        form=options["form"],
        allow_missing=options["allow_missing"],
        num_workers=options["num_workers"],
        progress=common.progress_bar,
    )
    if output:
        write_whole(output, ablation_file(found, output.suffix[1:].lower()).encode())
    if drawing:
        from crossalign.reports.figures import figure_bytes
        from crossalign.reports.figures.ablation import ablation_figure

        write_whole(drawing, figure_bytes(ablation_figure(found), drawing.suffix[1:].lower()))
    click.echo(ablation_text(found))
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in found.done.timing.items())
    click.echo(f"{stages}; {found.done.encoded} images encoded now, {found.done.cached} cached before", err=True)


def _file(path: str | None, option: str, formats: tuple[str, ...]) -> Path | None:
    if path is None:
        return None
    if Path(path).suffix[1:].lower() not in formats:
        raise InputError(f"--{option} {path!r} must end in {', '.join(f'.{format}' for format in formats)}; rename it")
    return common.check_output(path)
