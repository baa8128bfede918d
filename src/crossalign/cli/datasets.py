"""`crossalign datasets`: which there are."""

from __future__ import annotations

import click
from tabulate import tabulate


@click.command()
def command() -> None:
    """List the datasets that --dataset takes, their default folder and where they are published.

    \b
    Example:
      crossalign datasets
    """
    from crossalign.configs import config_names, load_config

    configs = [load_config(name) for name in config_names()]
    rows = [[c.name, c.title, c.data_path, "{}, {}".format(*c.crop_scale), c.url] for c in configs]
    click.echo(tabulate(rows, ["dataset", "title", "data path", "crop scale", "published at"], disable_numparse=True))
