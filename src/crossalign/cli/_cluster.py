"""Options and set-up of commands that can run on a Ray cluster."""

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

RAY_OPTIONS = ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker")
executor_options = common.options(
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where to run: in this process, or on a Ray cluster; see docs/scale.md.",
    ),
    click.option(
        "--ray-address",
        help="Address of the cluster: auto, host:6379, or local to start one [default: $RAY_ADDRESS, auto, local].",
    ),
    click.option("--workers", type=click.IntRange(1), help="Number of workers [default: as many as fit]."),
    click.option(
        "--num-cpus-per-worker", "cpus_per_worker", type=click.IntRange(1), help="CPU cores per worker [default: 1]."
    ),
    click.option("--num-gpus-per-worker", "gpus_per_worker", type=click.FloatRange(0), help="GPUs per worker [default: 0]."),
)


def check_executor(options: Mapping[str, Any]) -> None:
    """Check that cluster options are given with --executor ray only.

    Raises:
        InputError: names the first option that is given without it.
    """
    given = [name for name in RAY_OPTIONS if options[name] is not None]
    if given and options["executor"] != "ray":
        names = {"cpus_per_worker": "num-cpus-per-worker", "gpus_per_worker": "num-gpus-per-worker"}
        name = names.get(given[0], given[0].replace("_", "-"))
        raise InputError(f"--{name} {options[given[0]]} needs --executor ray; add it, or omit --{name}")


def taken(settings: dict[str, Any]) -> dict[str, Any]:
    """Remove the executor options from a command's settings, and return them."""
    return {key: settings.pop(key) for key in ("executor", *RAY_OPTIONS)}


def for_driver(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with which the driver loads its encoder, so that all workers can load the same.

    Workers with GPUs use torch, so the driver must not choose another runtime for its CPU.
    """
    if options["executor"] == "ray" and options["gpus_per_worker"] and options["runtime"] == "auto":
        return {**options, "runtime": "torch", "precision": options["precision"] or "f32"}
    return dict(options)


def executor(options: Mapping[str, Any], encoder: Encoder) -> AbstractContextManager[Cluster | None]:
    """Connect to the cluster if --executor is ray; otherwise None."""
    return joined(options, encoder) if options["executor"] == "ray" else nullcontext()


@contextmanager
def joined(options: Mapping[str, Any], encoder: Encoder) -> Iterator[Cluster]:
    """Connect to the cluster until the block ends."""
    # Ray reports lost workers on standard output, where the results go.
    with redirect_stdout(sys.stderr), join(options, encoder) as cluster:
        yield cluster


def join(options: Mapping[str, Any], encoder: Encoder) -> Cluster:
    """Connect to the cluster that the options name; its workers load the driver's encoder.

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
