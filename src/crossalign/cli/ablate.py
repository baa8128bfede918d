"""`crossalign ablate`: the accuracy of a method without some of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError, need_package

if TYPE_CHECKING:
    from crossalign.methods.alignment import Form
    from crossalign.text.descriptions import Style


@dataclass(frozen=True)
class Options:
    """The values of the command's options."""

    dataset_options: measuring.DatasetOptions
    encoder_options: common.EncoderOptions
    method: str
    axes: str
    views: int | None
    crop_scales: tuple[str, ...]
    form: Form
    descriptions: tuple[str, ...]
    description_style: Style | None
    allow_missing: bool
    seed: int
    output: str | None
    figure: str | None
    num_workers: int
    store: str | None


@click.command(cls=GroupedCommand)
@measuring.dataset_options
@click.option("--descriptions", multiple=True, type=click.Path(), help="JSON {class: [text]}; may be repeated.")
@measuring.description_style_option
@measuring.allow_missing_option
@click.option("--method", default="wca", show_default=True, help="The method to ablate; it must use local views.")
@click.option(
    "--axes", default="weights,views,crop-scale,form,prompts", show_default=True, help="What to vary, comma separated."
)
@click.option("--views", type=click.IntRange(1), help="Most local views per image [default: from the config].")
@click.option(
    "--crop-scale",
    "crop_scales",
    multiple=True,
    help="released, written or LOW,HIGH; repeat for more, the full method's first [default: from the config, then written].",
)
@common.form_option
@common.seed_option
@click.option("--output", type=click.Path(), help="Write all cells to FILE.md, FILE.csv or FILE.json.")
@click.option("--figure", type=click.Path(), help="Plot accuracy over the number of views to FILE.png, .svg or .pdf.")
@common.encoder_options
@common.workers_option
@common.store_option
def command(**values: Any) -> None:
    """Measure a method without some of its parts, and print what each part adds.

    The grid is view weights on and off x text weights on and off x number of views (1, 2, 5, 10, 20, 40, 60, 100, up to
    --views) x crop scales x forms of the score. A block of controls replaces the descriptions by other prompts: random
    words, the descriptions of other classes, descriptions without the class name, and the plain prompt repeated. Every
    cell is compared with the full method on the same images. Views are encoded once for all cells, and each is used once:
    there are no resampled runs.

    \b
    Examples:
      crossalign ablate --dataset oxford_pet --data-path data
      crossalign ablate --dataset folder --data-path my-photos --descriptions my-classes.json --axes weights,views
      crossalign ablate --dataset dtd --crop-scale released --crop-scale 0.3,0.7 --output dtd.md --figure dtd.pdf
      crossalign ablate --dataset folder --data-path pets --config oxford_pet --axes prompts --limit 100
    """
    options = Options(**values)
    config = options.dataset_options.config()
    if options.views is not None:
        config = replace(config, views=options.views)
    scales = [measuring.read_crop_scale(text, config) for text in options.crop_scales]
    if scales:
        config = replace(config, crop_scale=scales[0])
    output = _file(options.output, "output", ("md", "csv", "json"))
    figure = _file(options.figure, "figure", ("png", "svg", "pdf"))
    if figure:
        need_package("matplotlib", "figures", "a figure")
    axes = [axis.strip() for axis in options.axes.split(",")]
    if ("views" not in axes or config.views < 2) and figure:
        raise InputError("--figure plots accuracy over the number of views; include views in --axes, and use two or more")
    descriptions = measuring.read_descriptions(config, options.descriptions, options.description_style)

    from crossalign.evaluation.ablation import ablate, plan
    from crossalign.evaluation.ablation_tables import ablation_file, ablation_text
    from crossalign.methods.registry import pick_methods
    from crossalign.store.files import write_atomically
    from crossalign.store.shards import Store

    if options.method == "all":
        raise InputError("--method all names all methods, but ablate measures one; choose one, such as wca")
    (method,) = pick_methods([options.method])
    plan(method, axes, most=config.views, crop_scales=[config.crop_scale], form=options.form)
    if not descriptions and (method.needs_descriptions or "prompts" in axes):
        raise InputError(
            f"{method.name} and the control prompts need descriptions of the classes; give --descriptions FILE.json"
        )
    ablation = ablate(
        options.dataset_options.open(config),
        common.load_encoder(config.encoder, options.encoder_options),
        config,
        method,
        axes=axes,
        crop_scales=scales,
        descriptions=descriptions,
        store=Store(options.store),
        seed=options.seed,
        form=options.form,
        allow_missing=options.allow_missing,
        num_workers=options.num_workers,
        progress=common.progress_bar,
    )
    if output:
        write_atomically(output, ablation_file(ablation, output.suffix[1:].lower()).encode())
    if figure:
        from crossalign.reports.figures import figure_bytes
        from crossalign.reports.figures.ablation import ablation_figure

        write_atomically(figure, figure_bytes(ablation_figure(ablation), figure.suffix[1:].lower()))
    click.echo(ablation_text(ablation))
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in ablation.evaluation.timing.items())
    click.echo(
        f"{stages}; {ablation.evaluation.encoded} images encoded now, {ablation.evaluation.cached} cached before", err=True
    )


def _file(path: str | None, option: str, formats: tuple[str, ...]) -> Path | None:
    if path is None:
        return None
    if Path(path).suffix[1:].lower() not in formats:
        raise InputError(f"--{option} {path!r} must end in {', '.join(f'.{format}' for format in formats)}; rename it")
    return common.check_output(path)
