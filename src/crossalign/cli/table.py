"""`crossalign table`: results files side by side."""

from __future__ import annotations

import click

from crossalign.evaluation.tables import FORMATS, read_results, results_table, sentences, transductive_table


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--format", "layout", type=click.Choice(FORMATS), default="markdown", show_default=True)
def command(files: tuple[str, ...], layout: str) -> None:
    """Put results of `crossalign evaluate --output` into one table.

    What it shows is said in words on standard error, so that the table can go straight into a paper.

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
    if together := transductive_table(results, layout):
        click.echo(f"\n{together}")
