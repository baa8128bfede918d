"""Encoding and scoring on a Ray cluster; the results have the same bytes as those of one process.

Ray Data distributes tasks to a pool of actors, replaces lost actors and repeats their tasks. A shard holds a fixed range of
the dataset and is written atomically by the worker that encoded it, so that a repeated task changes nothing. The driver
creates the folder and its manifest.
"""

from __future__ import annotations

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

try:
    import ray
    import ray.data
except ImportError as error:
    from crossalign.errors import InputError

    raise InputError(f"a cluster needs {error.name}; run `pip install 'crossalign[ray]'`") from None

from crossalign.encoders import Encoder
from crossalign.errors import InputError
from crossalign.evaluation.ranks import Scored, Scorer, collect
from crossalign.features.pipeline import DamagedShardError, ImageFeatures, ShardWork, encode_shards, runtime_key
from crossalign.images.crops import Recipe
from crossalign.process import tune_process
from crossalign.store.shards import ShardFolder

LoadEncoder = Callable[[], Encoder]
"""Loads the encoder of a worker; it is pickled and sent to the workers."""

SHARDS_PER_GPU_TASK = 16
"""Several shards per task, so that the next images are decoded while the GPU encodes."""
SHARDS_PER_SCORING_TASK = 64
MAX_BLOCKS = 10_000
"""Largest number of blocks of a Ray dataset; if there are more tasks, a block has several."""
SHARED_WITHIN = 60.0
"""Seconds to wait until a shard written by a worker is visible here: network file systems cache missing files so long."""


@dataclass(frozen=True)
class Workers:
    """The pool of workers.

    Attributes:
        count: number of workers; None uses all of the cluster, and asks an autoscaling cluster for more nodes.
        cpus: cores per worker, which is also the number of threads of its encoder.
        gpus: GPUs per worker; 0.5 puts two workers on one GPU.
        decoders: threads per worker that decode and crop.
    """

    count: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    decoders: int = 2


class Cluster:
    """A connection to a Ray cluster, as an `evaluation.Executor`; a context manager that disconnects at its end.

    Args:
        encoder: the encoder of this process; the encoders of all workers must have its fingerprint and runtime.
        load: loads the encoder of a worker.
        workers: number and size of the workers.
        address: address of the cluster, as for `ray.init`: "auto", "host:6379", or "local" to start one on this machine.
            None connects to the cluster that Ray finds ($RAY_ADDRESS, or one that runs on this machine), and otherwise
            starts one here.

    Raises:
        InputError: there is no cluster at the address.
    """

    def __init__(self, encoder: Encoder, load: LoadEncoder, workers: Workers | None = None, address: str | None = None):
        self.workers = workers or Workers()
        self.load_of_worker = LoadOfWorker(load, _identity(encoder), self.workers)
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(address)
        self._warn_if_too_small()

    def __enter__(self) -> Cluster:
        """Return the cluster itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Disconnect; a cluster that was started here ends."""
        if self._connected:
            ray.shutdown()

    def encode(self, work: Sequence[ShardWork], shards: ShardFolder, recipe: Recipe) -> Iterator[int]:
        """Encode and write shards; see `features.pipeline.EncodeShards`.

        Raises:
            InputError: an image cannot be read, a worker has another encoder, or the workers write to another store.
        """
        shards = _with_absolute_folder(shards)
        tasks = _groups(map(_with_absolute_paths, work), SHARDS_PER_GPU_TASK if self.workers.gpus else 1)
        for row in self.map(_Encode, (self.load_of_worker, shards, recipe), tasks):
            for number in row["shards"]:
                _check_shared(shards.path(int(number)))
            yield int(row["images"])

    def score(self, features: ImageFeatures, scorer: Scorer) -> Iterator[list[Scored]]:
        """Score shards, and yield their results in order."""
        of_workers = replace(features, shards=_with_absolute_folder(features.shards), encode_again=None)
        tasks = _groups(range(len(features)), SHARDS_PER_SCORING_TASK)
        for task, row in zip(tasks, self.map(_Score, (of_workers, scorer), tasks, gpus=0.0), strict=True):
            # Scoring workers have no encoder: where one met a damaged shard, this process encodes it again and scores.
            is_scored = len(row["scored"]) > 0
            yield row["scored"] if is_scored else collect(scorer(*features.read(shard)) for shard in task)

    def map(
        self, worker: type, arguments: tuple[Any, ...], tasks: Sequence[Any], gpus: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Run tasks on the workers, and yield their results in the order of the tasks.

        Args:
            worker: a class; each actor makes one instance with `arguments`, and calls it with {"task": task}. It returns a
                dict.
            arguments: arguments of the class, sent to each actor once.
            tasks: values that can be pickled.
            gpus: GPUs per worker; by default those of the pool.

        Raises:
            InputError: a result has a message in "error", or Ray could not continue.
        """
        count = min(self.workers.count, len(tasks)) if self.workers.count else None
        pool = ray.data.ActorPoolStrategy(min_size=count or 1, max_size=count)
        data = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=min(len(tasks), MAX_BLOCKS))
        data.context.enable_progress_bars = False
        data.context.execution_options.preserve_order = True
        results = data.map(
            worker,
            fn_constructor_args=arguments,
            compute=pool,
            num_cpus=self.workers.cpus,
            num_gpus=self.workers.gpus if gpus is None else gpus,
        )
        try:
            for row in results.iter_rows():
                if row.get("error"):
                    raise InputError(row["error"])
                yield row
        except ray.exceptions.RayError as error:
            raise InputError(
                f"the cluster could not finish ({last_line(str(error))}); run again to resume: finished work is saved"
            ) from error

    def _warn_if_too_small(self) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = self.workers.cpus, self.workers.gpus
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            warnings.warn(f"no node of the cluster has {cpus} CPUs and {gpus:g} GPUs; waiting for such a node", stacklevel=3)


@dataclass(frozen=True)
class LoadOfWorker:
    """Loads the encoder on a worker, and compares it with the driver's; it is pickled and sent to the workers."""

    load: LoadEncoder
    identity: tuple[str, str]
    workers: Workers

    def __call__(self) -> Encoder:
        """Load the encoder.

        Raises:
            InputError: it cannot be loaded, or differs from the driver's.
        """
        tune_process()
        torch.set_num_threads(self.workers.cpus)
        encoder = self.load()
        if _identity(encoder) != self.identity:
            driver, worker = (
                f"{weights[:8]} on {runtime or 'torch-f32'}" for weights, runtime in (self.identity, _identity(encoder))
            )
            raise InputError(
                f"encoder {encoder.name} is {worker} on worker {socket.gethostname()}, but {driver} here; "
                "install the same versions and weights on all machines"
            )
        return encoder


class _Encode:
    """A worker that encodes shards."""

    def __init__(self, load: LoadOfWorker, shards: ShardFolder, recipe: Recipe):
        self._load, self._shards, self._recipe = load, shards, recipe
        self._encoder: Encoder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shards of a task that do not exist yet; a repeated task may have written some of them."""
        work: Sequence[ShardWork] = row["task"]
        try:
            self._encoder = self._encoder or self._load()
            missing = [shard for shard in work if self._shards.read(shard.number) is None]
            decoders = self._load.workers.decoders
            for _ in encode_shards(missing, self._shards, self._recipe, encoder=self._encoder, num_workers=decoders):
                pass
        except InputError as error:
            return {"shards": [], "images": 0, "error": str(error)}
        images = sum(len(shard.images) for shard in work)
        return {"shards": [shard.number for shard in work], "images": images, "error": ""}


class _Score:
    """A worker that scores shards."""

    def __init__(self, features: ImageFeatures, scorer: Scorer):
        self._features, self._scorer = features, scorer
        torch.set_num_threads(1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score the shards of a task; "scored" is empty if one of them is damaged."""
        shards = (self._features.read(shard) for shard in row["task"])
        try:
            scored = collect(self._scorer(*shard) for shard in shards)
        except DamagedShardError:
            return {"scored": [], "error": ""}
        except InputError as error:
            return {"scored": [], "error": str(error)}
        return {"scored": scored, "error": ""}


def last_line(text: str) -> str:
    """Last line of an error of Ray: the cause, below a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


def _identity(encoder: Encoder) -> tuple[str, str]:
    return encoder.fingerprint, runtime_key(encoder)


def _connect(address: str | None) -> None:
    try:
        if address and (at := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)):
            # Ray would retry for minutes.
            socket.create_connection((at[1], int(at[2])), timeout=10).close()
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"there is no Ray cluster at {address!r} ({reason}); start one with `ray start --head`, or leave the address out"
        ) from error


def _with_absolute_folder(shards: ShardFolder) -> ShardFolder:
    """Make the path absolute, because workers have other working directories."""
    return replace(shards, folder=shards.folder.absolute())


def _with_absolute_paths(work: ShardWork) -> ShardWork:
    images = ((Path(path).absolute() if isinstance(path, (str, Path)) else path, index) for path, index in work.images)
    return replace(work, images=tuple(images))


def _groups(items: Iterable[Any], size: int) -> list[list[Any]]:
    source = iter(items)
    return list(iter(lambda: list(islice(source, size)), []))


def _check_shared(shard: Path) -> None:
    deadline = time.monotonic() + SHARED_WITHIN
    while not shard.is_file():
        if time.monotonic() > deadline:
            raise InputError(
                f"a worker wrote {str(shard)!r}, but this machine does not see it; use a store that all machines share"
            )
        time.sleep(0.5)
