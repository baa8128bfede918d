"""`crossalign methods`: which there are."""

from __future__ import annotations

import click
from tabulate import tabulate


@click.command()
def command() -> None:
    """List the methods that --method and --methods take; M is the number of local views.

    If other packages add methods, a column names the package; docs/extending.md says how to add one.

    \b
    Example:
      crossalign methods
    """
    from crossalign.methods import METHODS
    from crossalign.plugins import OURS

    head = ["method", "what it does", "looks at", "encoder passes", "needs descriptions", "source"]
    rows = [
        [
            m.name,
            m.summary,
            m.looks_at,
            m.passes,
            "yes" if m.needs_descriptions else "",
            m.source,
        ]
        for m in METHODS.values()
    ]
    widths: list[int | None] = [None, 48, None, None, None, None]
    packages = [METHODS.package(m.name) for m in METHODS.values()]
    if set(packages) != {OURS}:
        rows = [[*row[:-1], package, row[-1]] for row, package in zip(rows, packages, strict=True)]
        head, widths = [*head[:-1], "package", head[-1]], [*widths, None]
    click.echo(tabulate(rows, head, maxcolwidths=widths))
