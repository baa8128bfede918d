"""`crossalign datasets`: which there are."""

from __future__ import annotations

import click
from tabulate import tabulate


@click.command()
def command() -> None:
    """List the datasets that --dataset takes, their default folder and where they are published.

    If other packages add datasets, a column names the package; docs/extending.md says how to add one.

    \b
    Example:
      crossalign datasets
    """
    from crossalign.datasets.configs import DATASETS, config_names, load_config
    from crossalign.plugins import OURS

    configs = [load_config(name) for name in config_names()]
    rows = [[c.name, c.title, c.data_path, "{}, {}".format(*c.crop_scale), c.url] for c in configs]
    head = ["dataset", "title", "data path", "crop scale", "published at"]
    packages = [DATASETS.package(c.name) for c in configs]
    if set(packages) != {OURS}:
        rows = [[*row[:-1], package, row[-1]] for row, package in zip(rows, packages, strict=True)]
        head = [*head[:-1], "package", head[-1]]
    click.echo(tabulate(rows, head, disable_numparse=True))
