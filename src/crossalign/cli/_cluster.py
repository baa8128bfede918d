"""Options and set-up of commands that can run on a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from crossalign.cli import _common as common
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.distributed import Cluster
    from crossalign.encoders import Encoder


@dataclass(frozen=True)
class ClusterOptions:
    """Where a command runs: the values of --executor and of the options of a cluster."""

    executor: str
    ray_address: str | None
    workers: int | None
    cpus_per_worker: int | None
    gpus_per_worker: float | None

    @property
    def ray(self) -> bool:
        """Whether the command runs on a Ray cluster."""
        return self.executor == "ray"

    def check(self) -> None:
        """Check that the options of a cluster are given with --executor ray only.

        Raises:
            InputError: names the first option that is given without it.
        """
        values = {
            "--ray-address": self.ray_address,
            "--workers": self.workers,
            "--num-cpus-per-worker": self.cpus_per_worker,
            "--num-gpus-per-worker": self.gpus_per_worker,
        }
        for option, value in values.items():
            if value is not None and not self.ray:
                raise InputError(f"{option} {value} needs --executor ray; add it, or omit {option}")

    def for_driver(self, options: common.EncoderOptions) -> common.EncoderOptions:
        """Options with which the driver loads its encoder, so that all workers can load the same.

        Workers with GPUs use torch, so the driver must not choose another runtime for its CPU.
        """
        if self.ray and self.gpus_per_worker and options.runtime == "auto":
            return replace(options, runtime="torch", precision=options.precision or "f32")
        return options


executor_options = common.option_group(
    "cluster",
    ClusterOptions,
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
"""Gives the command a `ClusterOptions` as its argument `cluster`."""


def executor(
    options: ClusterOptions, encoder: Encoder, encoder_options: common.EncoderOptions, num_workers: int
) -> AbstractContextManager[Cluster | None]:
    """Connect to the cluster if --executor is ray; otherwise None."""
    return joined(options, encoder, encoder_options, num_workers) if options.ray else nullcontext()


@contextmanager
def joined(
    options: ClusterOptions, encoder: Encoder, encoder_options: common.EncoderOptions, num_workers: int
) -> Iterator[Cluster]:
    """Connect to the cluster until the block ends."""
    # Ray reports lost workers on standard output, where the results go.
    with redirect_stdout(sys.stderr), join(options, encoder, encoder_options, num_workers) as cluster:
        yield cluster


def join(options: ClusterOptions, encoder: Encoder, encoder_options: common.EncoderOptions, num_workers: int) -> Cluster:
    """Connect to the cluster that the options name; its workers load the driver's encoder.

    Args:
        options: the cluster and its workers.
        encoder: the driver's.
        encoder_options: how the driver loaded it; the workers take its device and its calibration images.
        num_workers: threads that decode images, per worker.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    # Unless the user sets these variables, a cluster that is started here reports nothing over the network, and Ray's own
    # processes write no logs of their internals.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)

    from crossalign.distributed import Cluster, Workers
    from crossalign.encoders import load_encoder

    runtime = getattr(encoder, "runtime", None)
    load = partial(
        load_encoder,
        encoder.name,
        encoder_options.device,
        runtime=runtime.engine if runtime else "torch",
        precision=runtime.precision if runtime else "f32",
        calibration=encoder_options.calibration(),
    )
    workers = Workers(options.workers, options.cpus_per_worker or 1, options.gpus_per_worker or 0.0, num_workers)
    return Cluster(encoder, load, workers, options.ray_address)
