"""`crossalign methods`: which there are."""

from __future__ import annotations

import click
from tabulate import tabulate


@click.command()
def command() -> None:
    """List the methods that --method and --methods take.

    \b
    Example:
      crossalign methods
    """
    from crossalign.methods import METHODS

    rows = [
        [m.name, m.summary, "views and whole" if m.cross else "whole", "yes" if m.needs_descriptions else "", m.source]
        for m in METHODS.values()
    ]
    click.echo(tabulate(rows, ["method", "what it does", "looks at", "needs descriptions", "source"]))
