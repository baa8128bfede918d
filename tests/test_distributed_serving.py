"""The API on a real Ray cluster, asked over HTTP: replicas answer as one process does, and one that dies is replaced."""

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

import test_distributed
from conftest import PHOTOS
from crossalign.classifier import Classifier
from server import SCRIPT

pytest.importorskip("ray.serve")
LABELS = ("cat", "cup of coffee", "rocket", "astronaut")
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
AUTH = ("anna", "correct-horse")

environment = test_distributed.environment
nodes = test_distributed.nodes


@pytest.fixture(scope="module")
def command(nodes):
    return [SCRIPT, "serve", "--executor", "ray", "--ray-address", nodes.address, "--runtime", "torch"]


@pytest.fixture(scope="module")
def server(command, environment, tmp_path_factory):
    """A server with two replicas; its address, once it is printed."""
    said, complained = (tmp_path_factory.mktemp("server") / name for name in ("said", "complained"))
    options = ["--port", "0", "--workers", "2", "--max-labels", "20", "--auth", f"{AUTH[0]}:WORD"]
    with said.open("w") as out, complained.open("w") as err:
        process = subprocess.Popen([*command, *options], env=environment | {"WORD": AUTH[1]}, stdout=out, stderr=err)
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
    return set(test_distributed.bench.processes(b"ray::ServeReplica:crossalign"))


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
        while not enough.is_set():
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
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "0"], "Ray Serve runs on this cluster already, at 127.0.0.1, port"),
        (["--model", "some-llm"], "belongs to the page"),
    ],
)
def test_what_cannot_be_is_one_sentence(server, command, environment, options, words):
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=60)
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
    assert (done.returncode, "--workers 2 belongs to --executor ray" in done.stderr) == (2, True)
