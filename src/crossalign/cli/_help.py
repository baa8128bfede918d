"""`--help` in groups: what a command works on comes first, options for speed and clusters last."""

from __future__ import annotations

import click

GROUPS = {
    "What": "labels labels_file examples other dataset datasets dataset_name data_path data_root config_name tables source "
    "class_names limit download descriptions description_style allow_missing domain",
    "How": "encoder encoders method methods against transductive axes protocol views max_views confidence crop_scale "
    "crop_scales budget prompts form seed runs fresh_seeds model base_url api_key_env style per_class contrast concurrency "
    "calibration_file answer_precision multi_label threshold",
    "Server": "host port auth cors root_path",
    "Limits": "max_megabytes max_megapixels max_images max_examples max_labels queue timeout",
    "Removal": "older_than max_size everything yes",
    "Output": "top_k as_json as_csv layout calibration output report sort_into copy figure matrix dpi dry_run timed",
    "Encoder and speed": "device runtime precision calibrate num_workers",
    "Cluster": "executor ray_address workers cpus_per_worker gpus_per_worker",
    "Cache": "store no_store",
}
"""Titles, with the names of their options, in the order of --help. The group "Help" follows, with --help alone."""

_GROUP_OF = {name: title for title, names in GROUPS.items() for name in names.split()}


class GroupedCommand(click.Command):
    """A command with its options in groups; `@click.command(cls=GroupedCommand)`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups, each in the order in which the options were declared."""
        records: dict[str, list[tuple[str, str]]] = {title: [] for title in (*GROUPS, "Help")}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record:
                # Versions of click name the parameter of --help differently.
                records[_GROUP_OF.get(parameter.name or "", "Help")].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
