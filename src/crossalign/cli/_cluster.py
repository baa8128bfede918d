"""What verbs that can work on a cluster share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.distributed import Cluster
    from crossalign.encoders import Encoder

_OF_RAY = ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker")
executor_options = common.options(
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where the work is done: in this process, or on a Ray cluster; see docs/scale.md.",
    ),
    click.option(
        "--ray-address",
        help="The cluster's: auto, host:6379, or local to start one [default: $RAY_ADDRESS, one on this machine, local].",
    ),
    click.option("--workers", type=click.IntRange(1), help="Of the cluster [default: as many as it has room for]."),
    click.option("--num-cpus-per-worker", "cpus_per_worker", type=click.IntRange(1), help="Cores of each [default: 1]."),
    click.option("--num-gpus-per-worker", "gpus_per_worker", type=click.FloatRange(0), help="GPUs of each [default: 0]."),
)


def check_executor(options: Mapping[str, Any]) -> None:
    """Refuse options of a cluster where there is none.

    Raises:
        InputError: names the first of them.
    """
    given = [name for name in _OF_RAY if options[name] is not None]
    if given and options["executor"] != "ray":
        names = {"cpus_per_worker": "num-cpus-per-worker", "gpus_per_worker": "num-gpus-per-worker"}
        name = names.get(given[0], given[0].replace("_", "-"))
        raise InputError(f"--{name} {options[given[0]]} belongs to --executor ray; add that or leave it out")


def taken(settings: dict[str, Any]) -> dict[str, Any]:
    """Take out of a command's settings what belongs to --executor."""
    return {key: settings.pop(key) for key in ("executor", *_OF_RAY)}


def for_driver(options: Mapping[str, Any]) -> dict[str, Any]:
    """Say how the driver loads its encoder, so that workers can have the same.

    Workers with GPUs have torch alone, so that the driver does not look for a faster runtime on its CPU.
    """
    if options["executor"] == "ray" and options["gpus_per_worker"] and options["runtime"] == "auto":
        return {**options, "runtime": "torch", "precision": options["precision"] or "f32"}
    return dict(options)


def executor(options: Mapping[str, Any], encoder: Encoder) -> AbstractContextManager[Cluster | None]:
    """Join the cluster if --executor says so."""
    return joined(options, encoder) if options["executor"] == "ray" else nullcontext()


@contextmanager
def joined(options: Mapping[str, Any], encoder: Encoder) -> Iterator[Cluster]:
    """Join the cluster for as long as the block takes."""
    # Ray tells of workers that die on standard output, where results belong.
    with redirect_stdout(sys.stderr), join(options, encoder) as cluster:
        yield cluster


def join(options: Mapping[str, Any], encoder: Encoder) -> Cluster:
    """Join the cluster that the options name, for workers that have the driver's encoder.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    from crossalign.distributed import Cluster, Workers
    from crossalign.encoders import load_encoder

    runtime = getattr(encoder, "runtime", None)
    load = partial(
        load_encoder,
        encoder.name,
        options["device"],
        runtime=runtime.engine if runtime else "torch",
        precision=runtime.precision if runtime else "f32",
        calibration=common.find_images([options["calibrate"]]) if options["calibrate"] else (),
    )
    workers = Workers(
        options["workers"], options["cpus_per_worker"] or 1, options["gpus_per_worker"] or 0.0, options["num_workers"]
    )
    return Cluster(encoder, load, workers, options["ray_address"])
