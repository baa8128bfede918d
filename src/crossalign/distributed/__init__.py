"""Encode and score on a Ray cluster: what one process does shard by shard is done by many, to the same bytes.

Ray Data hands work to a pool of actors, starts lost ones again and repeats what they had in hand. A shard holds a fixed
range of the dataset and is written whole by whoever encoded it, so that a repeated task changes nothing; its folder is begun
by the driver alone.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

# Ray reads this while it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    import ray.data
except ImportError as error:
    from crossalign.errors import InputError

    raise InputError(f"a cluster needs {error.name} too; run `pip install 'crossalign[ray]'`") from None

from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.evaluation.ranks import Scored, Scorer, collect
from crossalign.features.pipeline import ImageFeatures, ShardWork, encode_shards, runtime_key
from crossalign.images.crops import Recipe
from crossalign.process import tune_process
from crossalign.store.shards import ShardFolder

LoadEncoder = Callable[[], Encoder]
"""Loads a worker's encoder; it is sent to the workers."""

SHARDS_A_GPU_TASK = 16
"""One after the other in a task, so that pictures of the next are unpacked while a GPU is at work on the one before."""
SHARDS_A_SCORING_TASK = 64
MOST_TASKS = 10_000
"""Blocks that Ray Data keeps account of; more shards than that go several to a block."""
SHARED_WITHIN = 60.0
"""Seconds until a shard that a worker wrote is seen here: network file systems remember for that long what was not there."""


@dataclass(frozen=True)
class Workers:
    """The pool of workers.

    Attributes:
        count: how many; None takes as many as the cluster has room for, and asks it for more if it can grow.
        cpus: cores of each, which are also its encoder's threads.
        gpus: of each; a share such as 0.5 puts two workers on one.
        decoders: threads of each that decode and cut.
    """

    count: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    decoders: int = 2


class Cluster:
    """A Ray cluster, as an `evaluation.Executor`; a context manager that leaves it at its end.

    Args:
        encoder: the driver's, whose fingerprint and runtime every worker's has to have.
        load: how a worker loads its own.
        workers: how many, and how large.
        address: of the cluster, as `ray.init` takes it: "auto", "host:6379", "local" to start one on this machine; None
            joins the one that Ray finds ($RAY_ADDRESS, or one that runs on this machine), and else starts one here.

    Raises:
        InputError: there is no cluster at the address.
    """

    def __init__(self, encoder: Encoder, load: LoadEncoder, workers: Workers | None = None, address: str | None = None):
        self.workers = workers or Workers()
        self.load_of_worker = LoadOfWorker(load, _identity(encoder), self.workers)
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(address)
        self._warn_if_too_small()

    def __enter__(self) -> Cluster:
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the cluster, and end it if it was started here."""
        if self._joined:
            ray.shutdown()

    def encode(self, work: Sequence[ShardWork], shards: ShardFolder, recipe: Recipe) -> Iterator[int]:
        """Encode and write shards, as `features.EncodeShards` says.

        Raises:
            InputError: a picture cannot be read, a worker's encoder is another one, or the workers' store is not this one.
        """
        shards = _at_home(shards)
        tasks = _groups(map(_absolute, work), SHARDS_A_GPU_TASK if self.workers.gpus else 1)
        for row in self.map(_Encode, (self.load_of_worker, shards, recipe), tasks):
            for number in row["shards"]:
                _check_shared(shards.path(int(number)))
            yield int(row["pictures"])

    def score(self, features: ImageFeatures, scorer: Scorer) -> Iterator[list[Scored]]:
        """Score shards, and yield what was found, in order."""
        features = replace(features, shards=_at_home(features.shards))
        tasks = _groups(range(len(features)), SHARDS_A_SCORING_TASK)
        for row in self.map(_Score, (features, scorer), tasks, gpus=0.0):
            yield row["scored"]

    def map(
        self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Any], gpus: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield what workers make of tasks, in order of the tasks.

        Args:
            worker: a class, made of the arguments once an actor, and called with {"task": task} for a dict.
            arguments: are sent to each actor once.
            tasks: any values that can be pickled.
            gpus: of each worker; by default the pool's.

        Raises:
            InputError: an answer says so in "error", or Ray could not carry on.
        """
        count = min(self.workers.count, len(tasks)) if self.workers.count else None
        pool = ray.data.ActorPoolStrategy(min_size=count or 1, max_size=count)
        data = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=min(len(tasks), MOST_TASKS))
        data.context.enable_progress_bars = False
        data.context.execution_options.preserve_order = True
        found = data.map(
            worker,
            fn_constructor_args=arguments,
            compute=pool,
            num_cpus=self.workers.cpus,
            num_gpus=self.workers.gpus if gpus is None else gpus,
        )
        try:
            for row in found.iter_rows():
                if row.get("error"):
                    raise InputError(row["error"])
                yield row
        except ray.exceptions.RayError as error:
            raise InputError(
                f"the cluster could not finish ({last_line(str(error))}); finished work is kept: run the same command again"
            ) from error

    def _warn_if_too_small(self) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = self.workers.cpus, self.workers.gpus
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            warnings.warn(f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs; waiting for one", stacklevel=3)


@dataclass(frozen=True)
class LoadOfWorker:
    """Loads a worker's encoder, there; it is sent to the workers."""

    load: LoadEncoder
    identity: tuple[str, str]
    workers: Workers

    def __call__(self) -> Encoder:
        """Load it.

        Raises:
            InputError: it is not there, or another one than the driver's.
        """
        tune_process()
        torch.set_num_threads(self.workers.cpus)
        encoder = self.load()
        if _identity(encoder) != self.identity:
            ours, theirs = (
                f"{weights[:8]} on {runtime or 'torch-f32'}" for weights, runtime in (self.identity, _identity(encoder))
            )
            raise InputError(
                f"encoder {encoder.name} is {theirs} on worker {os.uname().nodename}, but {ours} here; "
                "install the same versions and weights on all machines"
            )
        return encoder


class _Encode:
    """A worker that encodes shards."""

    def __init__(self, load: LoadOfWorker, shards: ShardFolder, recipe: Recipe):
        self._load, self._shards, self._recipe = load, shards, recipe
        self._encoder: Encoder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode those of some shards that are not there: a task may be repeated that was nearly done."""
        work: Sequence[ShardWork] = row["task"]
        try:
            self._encoder = self._encoder or self._load()
            missing = [one for one in work if self._shards.read(one.number) is None]
            decoders = self._load.workers.decoders
            for _ in encode_shards(missing, self._shards, self._recipe, encoder=self._encoder, num_workers=decoders):
                pass
        except InputError as error:
            return {"shards": [], "pictures": 0, "error": str(error)}
        return {"shards": [one.number for one in work], "pictures": sum(len(one.pictures) for one in work), "error": ""}


class _Score:
    """A worker that scores shards."""

    def __init__(self, features: ImageFeatures, scorer: Scorer):
        self._features, self._scorer = features, scorer
        torch.set_num_threads(1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score some shards."""
        read = (self._features.read(shard) for shard in row["task"])
        try:
            found = collect(self._scorer(*shard) for shard in read)
        except InputError as error:
            return {"scored": [], "error": str(error)}
        return {"scored": found, "error": ""}


def last_line(text: str) -> str:
    """Take the last line of what Ray says, which is the cause below a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it does not say why"


def _identity(encoder: Encoder) -> tuple[str, str]:
    return encoder.fingerprint, runtime_key(encoder)


def _join(address: str | None) -> None:
    # What Ray tells of its own working is no concern of a user's. Of a cluster that is started here this also empties the
    # log files of Ray's own processes, unless the user sets the variable.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address and (at := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)):
            # Ray would ask again and again for minutes.
            socket.create_connection((at[1], int(at[2])), timeout=10).close()
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"there is no Ray cluster at {address!r} ({reason}); start one with `ray start --head`, or leave the address out"
        ) from error


def _at_home(shards: ShardFolder) -> ShardFolder:
    """Name a folder so that it is found from any other: workers are at home in folders of their own."""
    return replace(shards, folder=shards.folder.absolute())


def _absolute(work: ShardWork) -> ShardWork:
    here = ((Path(path).absolute() if isinstance(path, (str, Path)) else path, index) for path, index in work.pictures)
    return replace(work, pictures=tuple(here))


def _groups(items: Iterable[Any], size: int) -> list[list[Any]]:
    source = iter(items)
    return list(iter(lambda: list(islice(source, size)), []))


def _check_shared(shard: Path) -> None:
    deadline = time.monotonic() + SHARED_WITHIN
    while not shard.is_file():
        if time.monotonic() > deadline:
            raise InputError(
                f"a worker wrote {str(shard)!r}, but it is not to be seen here; give a --store that all machines share"
            )
        time.sleep(0.5)
