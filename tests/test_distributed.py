"""A real Ray cluster of three nodes on this machine: nodes, workers and drivers die, and the bytes stay the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from conftest import PHOTOS
from server import SCRIPT

pytest.importorskip("ray")
PICTURES, SMALL = 12, 130
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
LABELS = "cat,cup of coffee,rocket,astronaut"

DRIVER = """
import sys
from functools import partial
from crossalign.configs import load_config
from crossalign.datasets import load_dataset
from crossalign.distributed import Cluster
from crossalign.encoders import load_encoder
from crossalign.features import image_features
from crossalign.store import Store
from crossalign.views import ViewRecipe

dataset = load_dataset(load_config("folder"), sys.argv[1])
encoder = load_encoder("builtin", "cpu")
options = {}
if len(sys.argv) > 3:
    options["encode"] = Cluster(encoder, partial(load_encoder, "builtin", "cpu"), address=sys.argv[3]).encode
found = image_features(dataset, encoder, ViewRecipe(60, (0.1, 0.9), 0), Store(sys.argv[2]), shard_images=1, **options)
print(f"encoded {found.encoded}")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One thread a process, as each worker has: kernels sum in another order on another number of threads."""
    home = tmp_path_factory.mktemp("home")
    kept = ("PATH", "LD_LIBRARY_PATH", "CROSSALIGN_CACHE")
    names = {name: os.environ[name] for name in kept if name in os.environ}
    return {**names, "HOME": str(home), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


class Nodes:
    """Three nodes with a core each; one that is lost is replaced by `mend`."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self._size = {"num_cpus": 1, "object_store_memory": 80_000_000}
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._size, "include_dashboard": False})
        self._others = []
        self.mend()
        self.address = self._cluster.address

    def mend(self):
        while len(self._others) < 2:
            self._others.append(self._cluster.add_node(**self._size))

    def lose_one(self):
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def end(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        nodes = Nodes()
        yield nodes
        nodes.end()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A few photos in two class folders, and many small ones in one folder."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(PICTURES + SMALL):
        few = number < PICTURES
        file = root / (("few/animal", "few/thing")[number % 2] if few else "many") / f"{number:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(PHOTOS / NAMES[number % 4]) as photo:
            photo.convert("RGB").resize((190 + number, 220 - number)).save(file)
    return root


def started(environment, *command):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process, code=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, err


def wait_for_files(folder, pattern, count, process):
    for _ in range(2400):
        if len(list(Path(folder).rglob(pattern))) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def kill_a_worker():
    """Kill an actor's process, as a machine without memory would."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::MapWorker") and b"_Encode" in name:
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise AssertionError("no worker was found")


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(Path(folder).rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def alone(photos, environment, tmp_path_factory):
    """The features that one process makes."""
    store = tmp_path_factory.mktemp("alone")
    ended(started(environment, "-c", DRIVER, photos / "few", store))
    return contents(store)


def test_features_are_the_same_though_a_worker_a_driver_and_a_node_are_lost(nodes, photos, environment, alone, tmp_path):
    command = ("-c", DRIVER, photos / "few", tmp_path, nodes.address)
    driver = started(environment, *command)
    wait_for_files(tmp_path, "*.safetensors", 1, driver)
    kill_a_worker()
    wait_for_files(tmp_path, "*.safetensors", 4, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    kept = len(list(tmp_path.rglob("*.safetensors")))
    driver = started(environment, *command)
    wait_for_files(tmp_path, "*.safetensors", kept + 2, driver)
    nodes.lose_one()
    assert f"encoded {PICTURES - kept}" in ended(driver)[0]
    nodes.mend()
    assert {name: content for name, content in contents(tmp_path).items() if name.suffix != ".part"} == alone


def test_evaluate_finds_the_same(nodes, photos, environment, tmp_path):
    descriptions = tmp_path / "descriptions.json"
    descriptions.write_text(json.dumps({"animal": ["a cat", "an animal"], "thing": ["a cup of coffee", "a rocket"]}))
    command = ["evaluate", "--dataset", "folder", "--data-path", photos / "few", "--views", 20, "--encoder", "builtin"]
    command += ["--methods", "clip,wca,mean-views", "--descriptions", descriptions, "--runtime", "torch", "--calibration"]
    found = []
    for name, more in (("here", []), ("there", ["--executor", "ray", "--ray-address", nodes.address, "--workers", 2])):
        output = tmp_path / f"{name}.json"
        ended(started(environment, SCRIPT, *command, "--store", tmp_path / name, "--output", output, *more))
        content = json.loads(output.read_text())
        found.append({key: content[key] for key in content if key not in ("timing", "command")})
    assert found[0] == found[1]
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_labels_are_the_same_though_the_driver_was_killed(nodes, photos, environment, tmp_path):
    import pyarrow.parquet as parquet

    (photos / "many" / "zz broken.jpg").write_bytes(b"no picture")
    command = [SCRIPT, "classify", photos / "many", "--labels", LABELS, "--views", 3, "--runtime", "torch"]
    ended(started(environment, *command, "--output", tmp_path / "here.parquet"), 1)
    output = tmp_path / "there.parquet"
    command += ["--output", output, "--executor", "ray", "--ray-address", nodes.address]
    driver = started(environment, *command)
    wait_for_files(output, "part-*.parquet", 1, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    kept = {file: file.stat().st_mtime_ns for file in output.glob("part-*.parquet")}
    _, err = ended(started(environment, *command), 1)
    assert f"1 of {SMALL + 1} pictures could not be read" in err
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert parquet.read_table(output).equals(parquet.read_table(tmp_path / "here.parquet"))


def test_without_a_cluster_it_says_so(photos, environment, tmp_path):
    command = ["features", "--dataset", "folder", "--data-path", photos / "few", "--encoder", "builtin", "--views", 0]
    _, err = ended(started(environment, SCRIPT, *command, "--executor", "ray", "--ray-address", "127.0.0.1:1"), 2)
    assert "there is no Ray cluster at '127.0.0.1:1'" in err
    assert "Traceback" not in err
    _, err = ended(started(environment, SCRIPT, *command, "--workers", 3), 2)
    assert "--workers 3 belongs to --executor ray" in err


def test_a_worker_says_what_is_wrong(photos, builtin, tmp_path):
    from crossalign.distributed import LoadOfWorker, Workers, _Encode
    from crossalign.features import ShardWork
    from crossalign.store import ShardFolder
    from crossalign.views import ViewRecipe

    (tmp_path / "a.jpg").write_bytes(b"no picture")
    shards, recipe = ShardFolder(tmp_path / "store", "0" * 32), ViewRecipe(1, (0.1, 0.9), 0)
    identity = (builtin.fingerprint, "")
    worker = _Encode(LoadOfWorker(lambda: builtin, identity, Workers()), shards, recipe)
    whole = ShardWork(0, ((photos / "few" / "animal" / "000.jpg", 0),))
    assert worker({"task": [whole]}) == {"shards": [0], "pictures": 1, "error": ""}
    answer = worker({"task": [whole, ShardWork(1, ((tmp_path / "a.jpg", 1),))]})
    assert f"picture {str(tmp_path / 'a.jpg')!r} cannot be read" in answer["error"]
    other = _Encode(LoadOfWorker(lambda: builtin, ("f" * 32, "openvino-f32"), Workers()), shards, recipe)
    assert f"{builtin.fingerprint[:8]} on torch-f32 on worker" in other({"task": [whole]})["error"]
