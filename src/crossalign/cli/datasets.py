"""`crossalign datasets`: the list of datasets."""

from __future__ import annotations

import click

from crossalign.cli._help import GroupedCommand


@click.command(cls=GroupedCommand)
def command() -> None:
    """List the datasets that --dataset accepts.

    The columns show the default folder, the crop scale, and where the dataset is published. If other packages add datasets,
    a column shows the package; see docs/extending.md.

    \b
    Example:
      crossalign datasets
    """
    from tabulate import tabulate

    from crossalign.datasets.configs import DATASETS, config_names, load_config
    from crossalign.plugins import OURS

    configs = [load_config(name) for name in config_names()]
    rows = [[c.name, c.title, c.data_path, "{}, {}".format(*c.crop_scale), c.url] for c in configs]
    columns = ["dataset", "title", "data path", "crop scale", "published at"]
    packages = [DATASETS.package(c.name) for c in configs]
    if set(packages) != {OURS}:
        rows = [[*row[:-1], package, row[-1]] for row, package in zip(rows, packages, strict=True)]
        columns = [*columns[:-1], "package", columns[-1]]
    click.echo(tabulate(rows, columns, disable_numparse=True))
