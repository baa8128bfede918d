"""A real Ray cluster on this machine: nodes, workers and drivers die, and the bytes and the API's answers stay the same."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from click.testing import CliRunner

from conftest import PHOTOS
from crossalign.classifier import Classifier
from crossalign.cli import main
from crossalign.datasets import load_dataset
from crossalign.datasets.configs import load_config
from crossalign.evaluation.ranks import Scored, collect
from crossalign.features.pipeline import image_features
from crossalign.images.crops import ViewRecipe
from crossalign.store.shards import Store
from server import SCRIPT

pytestmark = pytest.mark.cluster
pytest.importorskip("ray.serve")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
bench = importlib.import_module("cluster_faults")
PICTURES, VIEWS = 12, 20
SMALL = 70
"""A whole task for a worker of 64 pictures, and another that ends long before it."""
# Ray gives way to whatever else runs here, unless it is told not to. A node that is gone is noticed within seconds; one that
# is slow to answer has as long as ever.
RAY = {"worker_niceness": "0", "health_check_initial_delay_ms": "1000", "health_check_period_ms": "500"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return bench.environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def nodes(environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment | {f"RAY_{name}": value for name, value in RAY.items()}).items():
            patch.setenv(name, value)
        nodes = bench.Nodes()
        yield nodes
        nodes.end()


@pytest.fixture
def one_thread():
    """As each worker has: kernels sum in another order on another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def here(*words):
    """Run a command in this process; give its exit code."""
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    bench.make_photos(root, PICTURES, SMALL)
    return root


def test_features_are_the_same_though_a_worker_a_driver_and_a_node_are_lost(
    nodes, photos, environment, builtin, one_thread, tmp_path
):
    alone, together = tmp_path / "alone", tmp_path / "together"
    dataset, recipe = load_dataset(load_config("folder"), photos / "few"), ViewRecipe(VIEWS, (0.1, 0.9), 0)
    image_features(dataset, builtin, recipe, Store(alone), shard_images=1)
    command = ("-c", bench.FEATURES, photos / "few", together, VIEWS, nodes.address)
    driver = bench.start(environment, *command)
    bench.wait_for_files(together, "*.safetensors", 1, driver)
    assert bench.kill_a_worker()
    bench.wait_for_files(together, "*.safetensors", 4, driver)
    bench.kill(driver)
    kept = len(list(together.rglob("*.safetensors")))
    driver = bench.start(environment, *command)
    bench.wait_for_files(together, "*.safetensors", kept + 2, driver)
    nodes.lose_one()
    _, err = bench.ended(driver)
    assert 2 <= int(re.search(r"encoded (\d+)", err)[1]) <= PICTURES - kept
    nodes.replace()
    assert bench.contents(together) == bench.contents(alone)


def test_evaluate_finds_the_same(nodes, photos, environment, one_thread, tmp_path, monkeypatch):
    """From paths that mean nothing in the workers' own folders."""
    (tmp_path / "photos").symlink_to(photos / "few")
    texts = {"animal": ["a cat", "an animal"], "thing": ["a cup of coffee", "a rocket"]}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    command = ["evaluate", "--dataset", "folder", "--data-path", "photos", "--views", 4, "--encoder", "builtin"]
    command += ["--methods", "clip,wca,mean-views", "--descriptions", "texts.json", "--runtime", "torch", "--calibration"]
    monkeypatch.chdir(tmp_path)
    assert here(*command, "--store", "here", "--output", "here.json") == 0
    command += ["--executor", "ray", "--ray-address", nodes.address, "--workers", 2]
    bench.ended(bench.start(environment, SCRIPT, *command, "--store", "there", "--output", "there.json", cwd=tmp_path))
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("here", "there")]
    for key in ("timing", "command"):
        assert found[0].pop(key) != found[1].pop(key)
    assert found[0] == found[1]
    assert bench.contents(tmp_path / "here") == bench.contents(tmp_path / "there")


def test_labels_are_the_same_though_the_driver_was_killed(nodes, photos, environment, one_thread, tmp_path):
    import pyarrow.parquet as parquet

    (photos / "many" / "zz broken.jpg").write_bytes(b"no image")
    command = ["classify", photos / "many", "--labels", bench.LABELS, "--views", 1, "--runtime", "torch"]
    assert here(*command, "--output", tmp_path / "here.parquet") == 1
    output = tmp_path / "there.parquet"
    command = [SCRIPT, *command, "--output", output.name, "--executor", "ray", "--ray-address", nodes.address]
    driver = bench.start(environment, *command, cwd=tmp_path)
    bench.wait_for_files(output, "part-*.parquet", 1, driver)
    bench.kill(driver)
    kept = {file: file.stat().st_mtime_ns for file in output.glob("part-*.parquet")}
    _, err = bench.ended(bench.start(environment, *command, cwd=tmp_path), 1)
    assert f"1 of {SMALL + 1} images could not be read" in err
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert parquet.read_table(output).equals(parquet.read_table(tmp_path / "here.parquet"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--executor", "ray", "--ray-address", "127.0.0.1:1"), "there is no Ray cluster at '127.0.0.1:1'"),
        (("--workers", "3"), "--workers 3 needs --executor ray"),
    ],
)
def test_without_a_cluster_it_says_so(photos, options, words):
    command = ["features", "--dataset", "folder", "--data-path", photos / "few", "--encoder", "builtin", "--views", "0"]
    done = CliRunner().invoke(main, [*map(str, command), "--runtime", "torch", *options])
    assert (done.exit_code, words in done.stderr) == (2, True), done.output


def test_a_worker_says_what_is_wrong(photos, builtin, tmp_path):
    from crossalign.distributed import LoadOfWorker, Workers, _Encode
    from crossalign.features.pipeline import ShardWork
    from crossalign.images.crops import ViewRecipe
    from crossalign.store.shards import ShardFolder

    (tmp_path / "a.jpg").write_bytes(b"no image")
    shards, recipe = ShardFolder(tmp_path / "store", "0" * 32), ViewRecipe(1, (0.1, 0.9), 0)
    identity = (builtin.fingerprint, "")
    worker = _Encode(LoadOfWorker(lambda: builtin, identity, Workers()), shards, recipe)
    whole = ShardWork(0, ((photos / "few" / "animal" / "000.jpg", 0),))
    assert worker({"task": [whole]}) == {"shards": [0], "images": 1, "error": ""}
    answer = worker({"task": [whole, ShardWork(1, ((tmp_path / "a.jpg", 1),))]})
    assert f"image {str(tmp_path / 'a.jpg')!r} cannot be read" in answer["error"]
    other = _Encode(LoadOfWorker(lambda: builtin, ("f" * 32, "openvino-f32"), Workers()), shards, recipe)
    assert f"{builtin.fingerprint[:8]} on torch-f32 on worker" in other({"task": [whole]})["error"]


def test_a_damaged_shard_is_encoded_and_scored_by_the_driver(photos, builtin, tmp_path):
    """The workers' code runs in this process, without a cluster."""
    from crossalign.distributed import Cluster

    class Local(Cluster):
        def __init__(self):
            pass

        def map(self, worker, arguments, tasks, gpus=None):
            instance = worker(*arguments)
            yield from (instance({"task": task}) for task in tasks)

    class Means:
        """Scores a shard by the mean of each image's views."""

        def __call__(self, rows, x0, views):
            means = views.float().mean((1, 2))[:, None]
            return [Scored(means, None)]

    dataset = load_dataset(load_config("folder"), photos / "few")
    features = image_features(dataset, builtin, ViewRecipe(1, (0.1, 0.9), 0), Store(tmp_path), shard_images=1)
    (before,) = collect(Local().score(features, Means()))
    shard = features.shards.path(3)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (after,) = collect(Local().score(features, Means()))
    assert torch.equal(after.ranks, before.ranks)
    assert (shard.read_bytes(), features.encoded) == (content, len(dataset.paths) + 1)


def test_a_store_that_only_workers_see_is_told(tmp_path, monkeypatch):
    from crossalign.distributed import _check_shared
    from crossalign.errors import InputError

    monkeypatch.setattr("crossalign.distributed.SHARED_WITHIN", 0.0)
    (tmp_path / "there").touch()
    _check_shared(tmp_path / "there")
    with pytest.raises(InputError, match="this machine does not see it; use a store that all machines share"):
        _check_shared(tmp_path / "elsewhere")


# The API on the cluster, asked over HTTP: replicas answer as one process does, and one that dies is replaced

LABELS = ("cat", "cup of coffee", "rocket", "astronaut")
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
AUTH = ("anna", "correct-horse")


@pytest.fixture(scope="module")
def serve(nodes):
    return [SCRIPT, "serve", "--executor", "ray", "--ray-address", nodes.address, "--runtime", "torch"]


@pytest.fixture(scope="module")
def server(serve, environment, tmp_path_factory):
    """A server with two replicas; its address, once it is printed."""
    said, complained = (tmp_path_factory.mktemp("server") / name for name in ("said", "complained"))
    options = ["--port", "0", "--workers", "2", "--max-labels", "20", "--auth", f"{AUTH[0]}:WORD"]
    with said.open("w") as out, complained.open("w") as err:
        process = subprocess.Popen([*serve, *options], env=environment | {"WORD": AUTH[1]}, stdout=out, stderr=err)
    try:
        yield address(process, said, complained)
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0
    assert said.read_text().count("\n") == 1, "workers say nothing here"
    assert "Traceback" not in complained.read_text()
    assert AUTH[1] not in complained.read_text()
    assert not replicas()


def address(process, said, complained):
    for _ in range(1200):
        assert process.poll() is None, complained.read_text()
        if found := re.search(r"listens on (\S+)", said.read_text()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(complained.read_text())


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server, auth=AUTH, timeout=60) as client:
        yield client


def ask(client, name, **fields):
    data = {"labels": ", ".join(LABELS), "views": "5", "top_k": "4"} | fields
    return client.post("/v1/classify", files={"images": (name, (PHOTOS / name).read_bytes())}, data=data)


def replicas():
    """The processes of replicas on this machine."""
    return set(bench.processes(b"ray::ServeReplica:crossalign"))


def seconds_of_work(process):
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))


@pytest.fixture(scope="module")
def expected(builtin):
    """What the library says of each photo."""
    classify = Classifier(LABELS, encoder=builtin, views=5)
    return dict(zip(NAMES, classify([PHOTOS / name for name in NAMES], top_k=4), strict=True))


def check(answer, expected):
    (result,) = answer.json()["results"]
    wanted = expected[result["image"]].predictions
    assert [found["label"] for found in result["predictions"]] == [found.label for found in wanted]
    for found, one in zip(result["predictions"], wanted, strict=True):
        assert found["score"] == pytest.approx(one.score, abs=1e-5)


def test_replicas_answer_as_the_library_does(client, expected):
    (before,) = [{process: seconds_of_work(process) for process in replicas()}]
    assert len(before) == 2
    with ThreadPoolExecutor(4) as clients:
        for answer in clients.map(lambda name: ask(client, name), NAMES * 3):
            assert answer.status_code == 200, answer.text
            check(answer, expected)
    assert all(seconds_of_work(process) > ticks for process, ticks in before.items()), "both have worked"
    adaptive = ask(client, "chelsea.png", views="adaptive").json()["results"][0]
    assert 0 < adaptive["views"] < 60


def test_what_is_refused_says_why_as_one_process_does(client, server):
    many = ask(client, "chelsea.png", labels=",".join(map(str, range(21))))
    assert (many.status_code, many.json()) == (422, {"reason": "21 labels were given, but 20 are the limit; send less"})
    large = client.post("/v1/classify", files={"images": b"0" * 33_000_000})
    assert (large.status_code, large.json()["reason"][:34]) == (413, "the request is larger than 32 MB; ")
    assert client.get("/").json() == {"reason": "there is nothing at /; see /docs"}
    for auth in (None, ("anna", "wrong")):
        refused = httpx.get(f"{server}/v1/health", auth=auth)
        assert (refused.status_code, refused.json()) == (401, {"reason": "user or password is missing or wrong"})


def test_a_replica_that_is_killed_is_replaced_and_nobody_is_told_wrong(client, expected):
    before, answers, enough = replicas(), [], threading.Event()

    def ask_on(name):
        while not enough.wait(0.3):  # which leaves the new replica some of this machine to start on
            answers.append(ask(client, name))

    def more_answers():
        seen = len(answers)
        wait_until(lambda: [answer.status_code for answer in answers[seen:]].count(200) >= 8)

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask_on, name) for name in NAMES]
        try:
            for process in before:
                more_answers()
                os.kill(process, signal.SIGKILL)
                wait_until(lambda gone=process: len(replicas() - {gone}) == 2)
            # Now those are gone that were there at first.
            more_answers()
        finally:
            enough.set()
        for one in asking:
            one.result()
    # Whose request the dead one held is told so by Ray; everybody else gets an answer.
    failed = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in failed} <= {500, 503}
    assert len(failed) <= 4 * len(NAMES)
    for answer in answers:
        if answer.status_code == 200:
            check(answer, expected)


def wait_until(condition):
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "0"], "Ray Serve runs on this cluster already, but not at '127.0.0.1', port 0; use its host and port"),
        (["--model", "some-llm"], "needs the page"),
    ],
)
def test_what_cannot_be_is_one_sentence(server, serve, environment, options, words):
    done = subprocess.run([*serve, *options], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert httpx.get(f"{server}/v1/health", auth=AUTH).status_code == 200, "the one that runs is not disturbed"


def test_without_ray_it_says_what_to_install(environment):
    program = "import sys; sys.modules['ray'] = None; from crossalign.cli import main; main(['serve', '--executor', 'ray'])"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'crossalign[ray,serve]'" in done.stderr
    done = subprocess.run([SCRIPT, "serve", "--workers", "2"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "--workers 2 needs --executor ray" in done.stderr) == (2, True)
