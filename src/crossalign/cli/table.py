"""`crossalign table`: results files side by side."""

from __future__ import annotations

import click

from crossalign.tables import FORMATS, read_results, results_table


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--format", "layout", type=click.Choice(FORMATS), default="markdown", show_default=True)
def command(files: tuple[str, ...], layout: str) -> None:
    """Put results of `crossalign evaluate --output` into one table.

    \b
    Examples:
      crossalign table pets.json dtd.json
      crossalign table results/*.json --format latex > table.tex
    """
    click.echo(results_table([read_results(file) for file in files], layout))
