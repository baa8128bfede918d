"""A real Ray cluster of three nodes on this machine: nodes, workers and drivers die, and the bytes stay the same."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from server import SCRIPT

pytest.importorskip("ray")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
bench = importlib.import_module("cluster_faults")
PICTURES, SMALL = 12, 130


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return bench.environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def nodes(environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        nodes = bench.Nodes()
        yield nodes
        nodes.end()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    bench.make_photos(root, PICTURES, SMALL)
    return root


@pytest.fixture(scope="module")
def alone(photos, environment, tmp_path_factory):
    """The features that one process makes."""
    store = tmp_path_factory.mktemp("alone")
    bench.ended(bench.start(environment, "-c", bench.FEATURES, photos / "few", store))
    return bench.contents(store)


def test_features_are_the_same_though_a_worker_a_driver_and_a_node_are_lost(nodes, photos, environment, alone, tmp_path):
    command = ("-c", bench.FEATURES, photos / "few", tmp_path, nodes.address)
    driver = bench.start(environment, *command)
    bench.wait_for_files(tmp_path, "*.safetensors", 1, driver)
    assert bench.kill_a_worker()
    bench.wait_for_files(tmp_path, "*.safetensors", 4, driver)
    bench.kill(driver)
    kept = len(list(tmp_path.rglob("*.safetensors")))
    driver = bench.start(environment, *command)
    bench.wait_for_files(tmp_path, "*.safetensors", kept + 2, driver)
    nodes.lose_one()
    _, err = bench.ended(driver)
    assert 2 <= int(re.search(r"encoded (\d+)", err)[1]) <= PICTURES - kept
    nodes.mend()
    assert bench.contents(tmp_path) == alone


def test_evaluate_finds_the_same(nodes, photos, environment, tmp_path):
    """From paths that mean nothing in the workers' own folders."""
    (tmp_path / "photos").symlink_to(photos / "few")
    texts = {"animal": ["a cat", "an animal"], "thing": ["a cup of coffee", "a rocket"]}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    command = ["evaluate", "--dataset", "folder", "--data-path", "photos", "--views", 20, "--encoder", "builtin"]
    command += ["--methods", "clip,wca,mean-views", "--descriptions", "texts.json", "--runtime", "torch", "--calibration"]
    found = []
    for name, more in (("here", []), ("there", ["--executor", "ray", "--ray-address", nodes.address, "--workers", 2])):
        words = [SCRIPT, *command, "--store", name, "--output", f"{name}.json", *more]
        bench.ended(bench.start(environment, *words, cwd=tmp_path))
        content = json.loads((tmp_path / f"{name}.json").read_text())
        found.append({key: content[key] for key in content if key not in ("timing", "command")})
    assert found[0] == found[1]
    assert bench.contents(tmp_path / "here") == bench.contents(tmp_path / "there")


def test_labels_are_the_same_though_the_driver_was_killed(nodes, photos, environment, tmp_path):
    import pyarrow.parquet as parquet

    (photos / "many" / "zz broken.jpg").write_bytes(b"no picture")
    command = [SCRIPT, "classify", photos / "many", "--labels", bench.LABELS, "--views", 3, "--runtime", "torch"]
    bench.ended(bench.start(environment, *command, "--output", tmp_path / "here.parquet"), 1)
    output = tmp_path / "there.parquet"
    command += ["--output", output.name, "--executor", "ray", "--ray-address", nodes.address]
    driver = bench.start(environment, *command, cwd=tmp_path)
    bench.wait_for_files(output, "part-*.parquet", 1, driver)
    bench.kill(driver)
    kept = {file: file.stat().st_mtime_ns for file in output.glob("part-*.parquet")}
    _, err = bench.ended(bench.start(environment, *command, cwd=tmp_path), 1)
    assert f"1 of {SMALL + 1} pictures could not be read" in err
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert parquet.read_table(output).equals(parquet.read_table(tmp_path / "here.parquet"))


def test_without_a_cluster_it_says_so(photos, environment, tmp_path):
    command = ["features", "--dataset", "folder", "--data-path", photos / "few", "--encoder", "builtin", "--views", 0]
    _, err = bench.ended(bench.start(environment, SCRIPT, *command, "--executor", "ray", "--ray-address", "127.0.0.1:1"), 2)
    assert "there is no Ray cluster at '127.0.0.1:1'" in err
    assert "Traceback" not in err
    _, err = bench.ended(bench.start(environment, SCRIPT, *command, "--workers", 3), 2)
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


def test_a_store_that_only_workers_see_is_told(tmp_path, monkeypatch):
    from crossalign.distributed import _check_shared
    from crossalign.errors import InputError

    monkeypatch.setattr("crossalign.distributed.SHARED_WITHIN", 0.0)
    (tmp_path / "there").touch()
    _check_shared(tmp_path / "there")
    with pytest.raises(InputError, match="it is not to be seen here; give a --store that all machines share"):
        _check_shared(tmp_path / "elsewhere")
