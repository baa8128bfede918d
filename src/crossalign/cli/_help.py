"""`--help` in groups: the options that decide what is done come first, those for speed and clusters last."""

from __future__ import annotations

import click

GROUPS = {
    "Encoder and speed": ("device", "runtime", "precision", "calibrate", "num_workers", "batch_size"),
    "Cluster": ("executor", "ray_address", "workers", "cpus_per_worker", "gpus_per_worker"),
    "Cache": ("store",),
    "Help": ("help",),
}
"""Titles, with the names of their options. Every other option is in the first group, "Options"."""


class GroupedCommand(click.Command):
    """A command with its options in groups; `@click.command(cls=GroupedCommand)`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups, each in the order in which the options were declared."""
        group_of = {name: title for title, names in GROUPS.items() for name in names}
        records: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Options", *GROUPS)}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                records[group_of.get(parameter.name or "", "Options")].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
