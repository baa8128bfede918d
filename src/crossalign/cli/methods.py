"""`crossalign methods`: the list of methods."""

from __future__ import annotations

import click

from crossalign.cli._help import GroupedCommand


@click.command(cls=GroupedCommand)
def command() -> None:
    """List the methods that --method and --methods accept. M is the number of local views.

    The column "sees": "image" is the global view alone; "views" are the local views; "views+image" are the global view and
    the local views; "set" means that all images of a dataset are classified together, by `evaluate` only.

    The options have the values of the papers. To change them, write them after the method's name, as in the example. If
    other packages add methods, a column shows the package; see docs/extending.md.

    \b
    Examples:
      crossalign methods
      crossalign evaluate --dataset dtd --methods zero,zero:gamma=0.1,awt:epsilon=0.05:text_temperature=1
    """
    from tabulate import tabulate

    from crossalign.methods.registry import METHODS
    from crossalign.plugins import OURS

    columns = ["method", "what it does", "sees", "encoder passes", "needs descriptions", "options", "source"]
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
        columns, widths = [*columns[:-1], "package", columns[-1]], [*widths, None]
    click.echo(tabulate(rows, columns, maxcolwidths=widths))
