"""`crossalign methods`: which there are."""

from __future__ import annotations

import click
from tabulate import tabulate


@click.command()
def command() -> None:
    """List the methods that --method and --methods take; M is the number of local views.

    What a method sees: "image" is the global view alone; "views" the local views; "views+image" counts the global view as
    one more view; "set" classifies all images of a dataset together, in `evaluate` only.

    Options have the values of the papers; others are given behind a method's name, as in the example. If other packages add
    methods, a column names the package; docs/extending.md says how to add one.

    \b
    Examples:
      crossalign methods
      crossalign evaluate --dataset dtd --methods zero,zero:gamma=0.1,awt:epsilon=0.05:text_temperature=1
    """
    from crossalign.methods.registry import METHODS
    from crossalign.plugins import OURS

    head = ["method", "what it does", "sees", "encoder passes", "needs descriptions", "options", "source"]
    rows = [
        [
            m.name,
            m.summary,
            m.sees,
            m.passes,
            "yes" if m.needs_descriptions else "",
            "\n".join(f"{name}={value:g}" for name, value in m.options.items()),
            m.source,
        ]
        for m in METHODS.values()
    ]
    widths: list[int | None] = [None, 40, None, None, None, None, None]
    packages = [METHODS.package(m.name) for m in METHODS.values()]
    if set(packages) != {OURS}:
        rows = [[*row[:-1], package, row[-1]] for row, package in zip(rows, packages, strict=True)]
        head, widths = [*head[:-1], "package", head[-1]], [*widths, None]
    click.echo(tabulate(rows, head, maxcolwidths=widths))
