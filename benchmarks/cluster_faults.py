"""Kill workers, nodes and the command itself at random moments, on a Ray cluster of three nodes on this machine.

Features are made by one process first, and labels by the cluster with nothing lost. Then, --rounds times for each fault, the
cluster makes them, something is killed with -9 while it does, a command that was killed is given again, and all bytes are
compared. Exit code 1 if any differ.

    python benchmarks/cluster_faults.py --rounds 5 --markdown
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image
from tabulate import tabulate

SCRIPT = Path(sys.executable).with_name("crossalign")
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
LABELS = "cat,cup of coffee,rocket,astronaut"
FEW, MANY = 12, 200
FAULTS = ("a worker", "a node", "the command")

FEATURES = """
import sys
from functools import partial
from crossalign.datasets.configs import load_config
from crossalign.datasets import load_dataset
from crossalign.distributed import Cluster
from crossalign.encoders import load_encoder
from crossalign.features.pipeline import image_features
from crossalign.store.shards import Store
from crossalign.images.crops import ViewRecipe

dataset = load_dataset(load_config("folder"), sys.argv[1])
load = partial(load_encoder, "builtin", "cpu", runtime="torch", precision="f32")
encoder = load()
options = {}
if len(sys.argv) > 4:
    options["encode"] = Cluster(encoder, load, address=sys.argv[4]).encode
recipe = ViewRecipe(int(sys.argv[3]), (0.1, 0.9), 0)
found = image_features(dataset, encoder, recipe, Store(sys.argv[2]), shard_images=1, **options)
print(f"encoded {found.encoded}", file=sys.stderr)
"""
"""Arguments: images, store, views and perhaps a cluster. One shard per image, so that few images make many shards."""


class Nodes:
    """Three nodes with one core each, the first of them the head; `replace` starts a new node for a lost one."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._size = {"num_cpus": 1, "object_store_memory": 80_000_000}
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._size, "include_dashboard": False})
        self._others: list[Any] = []
        self.replace()
        self.address = str(self._cluster.address)

    def replace(self) -> None:
        """Add nodes until there are three."""
        while len(self._others) < 2:
            self._others.append(self._cluster.add_node(**self._size))

    def lose_one(self) -> None:
        """Kill a node's processes."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def end(self) -> None:
        """End all of them."""
        self._cluster.shutdown()


def environment(home: Path) -> dict[str, str]:
    """One thread a process, as each worker has: kernels sum in another order on another number of threads."""
    kept = {
        name: os.environ[name]
        for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "CROSSALIGN_CACHE")
        if name in os.environ
    }
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def make_photos(root: Path, few: int, many: int) -> None:
    """Write a few photos in two class folders below "few", and many in one folder "many"."""
    for number in range(few + many):
        file = root / (("few/animal", "few/thing")[number % 2] if number < few else "many") / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(str(resources.files("skimage") / "data" / NAMES[number % 4])) as photo:
            photo.convert("RGB").resize((190 + number, 220 - number)).save(file)


def start(environment: dict[str, str], *command: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a command in a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for the end of a process, and give what it said."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    return out, err


def wait_for_files(folder: Path, pattern: str, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a process has written so many files."""
    for _ in range(2400):
        if len(list(folder.rglob(pattern))) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a command and what it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def processes(prefix: bytes) -> list[int]:
    """List the processes on this machine whose names begin so; Ray names its workers by what they do."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(prefix):
            found.append(int(folder.name))
    return found


def kill_a_worker() -> bool:
    """Kill an actor's process, as a machine without memory would; say whether there was one."""
    for worker in processes(b"ray::MapWorker")[:1]:
        os.kill(worker, signal.SIGKILL)
        return True
    return False


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files but those that killed processes left half written."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".part")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def main() -> None:
    """Run all faults and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each fault")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="crossalign-cluster-") as folder:
        root = Path(folder)
        os.environ.update(environment(root))
        make_photos(root / "photos", FEW, MANY)
        nodes = Nodes()
        try:
            rows = [row for job in ("features", "labels") for row in faults_of(job, nodes, root, options.rounds, moments)]
        finally:
            nodes.end()
    headers = ["job", "killed", "times", "share done when killed", "outcome", "verdict"]
    print(tabulate(rows, headers, tablefmt="github" if options.markdown else "simple", disable_numparse=True))
    sys.exit(any(row[-1] == "FAILED" for row in rows))


def faults_of(job: str, nodes: Nodes, root: Path, rounds: int, moments: random.Random) -> list[list[str]]:
    """Make one job's results without a fault, and then with each."""
    wanted, _ = run(job, root / f"{job} alone", nodes, root, "", 0)
    rows = []
    for fault in FAULTS:
        shares, same = [], 0
        for number in range(rounds):
            share = moments.uniform(0.05, 0.8)
            found, share = run(job, root / f"{job} {fault} {number}", nodes, root, fault, share)
            shares.append(f"{100 * share:.0f}")
            same += found == wanted
        outcome = f"{same} of {rounds} with the same bytes"
        rows.append([job, fault, str(rounds), f"{' '.join(shares)} %", outcome, "ok" if same == rounds else "FAILED"])
    return rows


def run(job: str, output: Path, nodes: Nodes, root: Path, fault: str, share: float) -> tuple[dict[str, bytes], float]:
    """Run a job with a fault after a share of its files is there; give what it left, and the share that it was in fact."""
    photos, on_cluster = root / "photos", ["--executor", "ray", "--ray-address", nodes.address]
    if job == "features":
        words = ["-c", FEATURES, photos / "few", output, 60, *([nodes.address] if fault else [])]
        pattern, total = "*.safetensors", FEW
    else:
        words = [SCRIPT, "classify", photos / "many", "--labels", LABELS, "--views", 3, "--runtime", "torch"]
        words += ["--output", output / "labels.parquet", *on_cluster]
        pattern, total = "part-*.parquet", -(-MANY // 64)
    process = start(dict(os.environ), *words)
    if fault:
        wait_for_files(output, pattern, max(1, int(share * total)), process)
        share = len(list(output.rglob(pattern))) / total
        if fault == "a worker":
            kill_a_worker()
        elif fault == "a node":
            nodes.lose_one()
        else:
            kill(process)
            process = start(dict(os.environ), *words)
    ended(process)
    nodes.replace()
    return contents(output), share


if __name__ == "__main__":
    main()
