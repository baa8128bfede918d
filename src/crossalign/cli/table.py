"""`crossalign table`: several results files in one table."""

from __future__ import annotations

import click

from crossalign.cli._help import GroupedCommand
from crossalign.evaluation.tables import FORMATS, read_results, results_table, sentences, transductive_table


@click.command(cls=GroupedCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option(
    "--format", "layout", type=click.Choice(FORMATS), default="markdown", show_default=True, help="Layout of the table."
)
def command(files: tuple[str, ...], layout: str) -> None:
    """Print results files of `crossalign evaluate --output` as one table.

    The comparisons of the methods, in sentences, go to standard error, so that the output is the table alone. Transductive
    methods follow in a table of their own.

    \b
    Examples:
      crossalign table pets.json dtd.json
      crossalign table results/*.json --format latex > table.tex
    """
    results = [read_results(file) for file in files]
    click.echo(results_table(results, layout))
    for result in results:
        for sentence in sentences(result):
            click.echo(sentence, err=True)
    if transductive := transductive_table(results, layout):
        click.echo(f"\n{transductive}")
