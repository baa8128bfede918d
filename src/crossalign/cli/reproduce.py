"""`crossalign reproduce`: the tables of the paper, published beside measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.cli import _measuring as measuring
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.datasets import ClassNames
    from crossalign.evaluation.reproduction.grid import GridCell


@click.command(cls=GroupedCommand)
@click.option("--tables", default="1,2", show_default=True, help="1 (six datasets), 2 (shifted ImageNets), or both.")
@click.option("--datasets", help="Comma separated [default: all of the tables].")
@click.option("--encoder", "encoders", multiple=True, help="May be repeated [default: the CLIP encoders of each table].")
@click.option("--methods", help="Comma separated, or all [default: those of each table].")
@click.option(
    "--data-root", default="data", show_default=True, type=click.Path(), help="Folder that holds one folder per dataset."
)
@click.option("--limit", type=click.IntRange(1), help="Use only so many images per dataset, spread evenly over it.")
@click.option(
    "--descriptions",
    multiple=True,
    type=click.Path(),
    help="NAME.json {class: [text]}, or a folder with such files or with folders of them; may be repeated "
    "[default: bundled].",
)
@measuring.description_style_option
@measuring.class_names_option("published")
@measuring.allow_missing_option
@common.seed_option
@click.option("--output", default="reproduction", show_default=True, type=click.Path(), help="Folder of the results.")
@common.device_option
@common.workers_option
@common.store_option
def command(
    tables: str,
    datasets: str | None,
    encoders: tuple[str, ...],
    methods: str | None,
    data_root: str,
    output: str,
    class_names: ClassNames | None,
    descriptions: tuple[str, ...],
    **settings: Any,
) -> None:
    """Measure the tables of the paper, and print published beside measured accuracies.

    Datasets and encoders that are not found are left out, with a note. The output folder gets reproduction.md,
    reproduction.tex, and one results file per dataset and encoder. A second call reads the results files that were made
    with the same settings, so a call that was stopped resumes.

    \b
    Examples:
      crossalign reproduce --data-root data --descriptions cupl
      crossalign reproduce --tables 1 --datasets dtd,oxford_pet --encoder open_clip:ViT-B-32/openai
      crossalign reproduce --datasets dtd --encoder builtin --limit 100 --output quick

    Exit code: 0 if everything that was found was measured, 1 if some of it failed, 2 if nothing could be measured.
    """
    cells = _cells(tables, datasets, encoders, methods)
    files, folder = tuple(Path(path) for path in descriptions), Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output {output!r} is a file; name a folder")

    from crossalign.evaluation.reproduction import report
    from crossalign.evaluation.reproduction.grid import Settings, run_grid
    from crossalign.evaluation.reproduction.sources import check_descriptions
    from crossalign.store.files import write_atomically

    check_descriptions(files, [cell.config for cell in cells])
    grid = Settings(Path(data_root), folder, files, class_names=class_names or "published", **settings)
    outcome = run_grid(cells, grid, say=lambda line: click.echo(line, err=True), progress=common.progress_bar)
    if not outcome.done:
        raise InputError("\n".join(["nothing could run:", *(f"- {why}" for why in report.not_measured(outcome))]))
    called = shlex.join(["crossalign", *sys.argv[1:]])
    text = report.markdown(outcome, called)
    write_atomically(folder / "reproduction.md", text.encode())
    write_atomically(folder / "reproduction.tex", report.latex(outcome, called).encode())
    click.echo(text, nl=False)
    if outcome.failed:
        sys.exit(1)


def _cells(tables: str, datasets: str | None, encoders: tuple[str, ...], methods: str | None) -> list[GridCell]:
    from crossalign.datasets.configs import load_config
    from crossalign.evaluation.reproduction.grid import plan
    from crossalign.evaluation.reproduction.published import TABLES, published_table
    from crossalign.methods.registry import pick_methods

    numbers = _words(tables)
    if unknown := [number for number in numbers if number not in map(str, TABLES)]:
        raise InputError(f"table {unknown[0]!r} is unknown; --tables takes 1, 2 or 1,2")
    published = [published_table(number) for number in TABLES if str(number) in numbers]
    known = [name for table in published for name in table.images]
    names = [load_config(name).name for name in _words(datasets)] if datasets else known
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"dataset {unknown[0]!r} is not in the tables that --tables names; choose from {', '.join(known)}")
    chosen = [method.name for method in pick_methods(_words(methods))] if methods else ()
    configs = [load_config(name) for name in known if name in names]
    return plan(published, configs, encoders, chosen)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]
