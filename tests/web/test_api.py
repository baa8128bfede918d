"""The API: a real server process with real clients; the engine with the real encoder."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from conftest import PHOTOS
from crossalign.classifier import Classifier
from server import serving, wait_for

LABELS = ("cat", "cup of coffee", "rocket")
CHELSEA = (PHOTOS / "chelsea.png").read_bytes()
AUTH = ("anna", "correct-horse")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "labels.txt").write_text("rocket\ncat\n")
    limits = ("--max-megabytes", 3, "--max-megapixels", 4, "--max-images", 3, "--max-labels", 20, "--queue", 5)
    options = ("--labels-file", folder / "labels.txt", "--auth", "anna:WORD", *limits)
    with serving(*options, WORD=AUTH[1], TMPDIR=str(folder)) as running:
        running.folder = folder
        yield running
    assert running.process.returncode == 0
    assert not list(folder.glob("crossalign-*")), "the folder of uploads is left behind"
    assert "Traceback" not in "".join(running.complained)


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, auth=AUTH, timeout=60) as client:
        yield client


def ask(client, *files, **fields):
    data = {"labels": ", ".join(LABELS), "views": "4"} | fields
    return client.post("/v1/classify", files=[("images", file) for file in files], data=data)


def ask_json(client, **body):
    return client.post("/v1/classify", json={"labels": LABELS, "views": 4} | body)


def as_base64(content):
    return base64.b64encode(content).decode()


def image_file(size, kind="png", mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def reason(response, status, *words):
    assert response.status_code == status, response.text
    (said,) = response.json().values()
    for word in words:
        assert word in said
    return said


# What is answered


def test_images_get_the_labels_that_the_classifier_gives(client, builtin):
    names = ("chelsea.png", "coffee.png")
    answer = ask(client, *((name, (PHOTOS / name).read_bytes()) for name in names), top_k="2").json()
    expected = Classifier(LABELS, encoder=builtin, views=4)([PHOTOS / name for name in names], top_k=2)
    assert [result["image"] for result in answer["results"]] == list(names)
    for result, classification in zip(answer["results"], expected, strict=True):
        assert [p["label"] for p in result["predictions"]] == [p.label for p in classification.predictions]
        for prediction, wanted in zip(result["predictions"], classification.predictions, strict=True):
            assert prediction["score"] == pytest.approx(wanted.score, abs=1e-4)
            assert prediction["probability"] == pytest.approx(wanted.probability, abs=1e-3)
    assert [result["predictions"][0]["label"] for result in answer["results"]] == ["cat", "cup of coffee"]


def test_adaptive_views_are_the_classifiers(client, builtin):
    by_form = ask(client, ("a.png", CHELSEA), views="adaptive").json()["results"][0]
    by_json = ask_json(client, images=[as_base64(CHELSEA)], views="adaptive").json()["results"][0]
    (expected,) = Classifier(LABELS, encoder=builtin, views="adaptive")(PHOTOS / "chelsea.png")
    assert by_form["views"] == by_json["views"] == expected.views < 60
    assert by_form["predictions"] == by_json["predictions"]
    assert by_form["predictions"][0]["score"] == pytest.approx(expected.predictions[0].score, abs=1e-4)
    assert ask(client, ("a.png", CHELSEA)).json()["results"][0]["views"] == 4


def test_json_and_multipart_agree(client):
    texts = {"cat": ["has whiskers"], "cup of coffee": ["has a handle"], "rocket": ["has a nose cone"]}
    by_form = ask(client, ("a.png", CHELSEA), descriptions=json.dumps(texts), domain="thing").json()["results"][0]
    by_json = ask_json(client, images=[as_base64(CHELSEA)], descriptions=texts, domain="thing").json()["results"][0]
    assert by_json["predictions"] == by_form["predictions"]
    assert (by_json["image"], by_form["image"]) == ("number 1", "a.png")
    assert by_json["predictions"] != ask(client, ("a.png", CHELSEA)).json()["results"][0]["predictions"]


def test_labels_may_hold_commas_and_come_in_several_fields(client):
    response = client.post(
        "/v1/classify",
        files=[("images", ("a.png", CHELSEA))],
        data={"labels": ['"cat, tabby",dog', "rocket\rfox"], "views": "2", "top_k": "9"},
    )
    labels = [p["label"] for p in response.json()["results"][0]["predictions"]]
    assert sorted(labels) == ["cat, tabby", "dog", "fox", "rocket"]


def test_the_servers_own_labels_stand_in(client):
    response = client.post("/v1/classify", files=[("images", ("a.png", CHELSEA))], data={"method": "clip"})
    assert [p["label"] for p in response.json()["results"][0]["predictions"]] == ["cat", "rocket"]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
def test_formats_are_told_by_content_not_by_name(client, kind):
    if kind == "avif" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow writes no AVIF")
    assert ask(client, ("wrong.pdf", image_file((60, 40), kind)), method="clip").status_code == 200


def test_health_and_encoders(client):
    health = client.get("/v1/health").json()
    assert health["status"] == "ok"
    assert (health["waiting"], health["queue"]) == (0, 5)
    encoders = client.get("/v1/encoders").json()
    assert encoders["serving"] == health["encoder"] == "builtin:lite0"
    assert encoders["width"] == 384
    assert {"builtin", "open_clip:ViT-B-32/openai"} <= set(encoders["known"])


def test_the_texts_of_labels_are_cached_between_requests(client):
    before = client.get("/v1/health").json()["label_sets"]
    for views in ("2", "3", "2"):
        assert ask(client, ("a.png", CHELSEA), labels="one thing, another thing", views=views).status_code == 200
    assert client.get("/v1/health").json()["label_sets"] == before + 1
    ask(client, ("a.png", CHELSEA), labels="another thing, one thing")
    assert client.get("/v1/health").json()["label_sets"] == before + 2


def test_the_documentation_needs_no_other_server(client, server):
    page = client.get("/docs").text
    assert "swagger" in page
    assert "://" not in page.replace(server.url, "")
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


# What is refused

BOMB = image_file((30_000, 30_000), mode="1")
THIN = image_file((1, 40_000))  # 120 kB once unpacked, and gigabytes once resized by its shorter side


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, ("bomb", "pixels")),
        (image_file((2100, 2000), mode="1"), ("4200000 pixels", "4000000 are the limit")),
        (THIN, ("1 x 40000", "32 times")),
        (image_file((300, 200), "jpeg")[:400], ("cannot be read",)),
        (CHELSEA[: len(CHELSEA) // 2], ("truncated",)),
        (b"%PDF-1.4\n1 0 obj << /Type /Catalog >> endobj", ("none of", "JPEG")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", ("none of",)),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("none of",)),
        (b"", ("cannot be read",)),
    ],
    ids=["bomb", "large", "thin", "cut jpeg", "cut png", "pdf", "eps", "svg", "empty"],
)
def test_bad_images_get_a_reason(client, content, words):
    said = reason(ask(client, ("good.png", CHELSEA), ("photo.jpg", content)), 422, "'photo.jpg'", *words)
    assert said.count(".") <= 3
    assert ask(client, ("good.png", CHELSEA)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"labels": "cat"}, "two or more"),
        ({"labels": "cat,,dog"}, "empty"),
        ({"labels": f"cat,{'d' * 200_000}"}, "labels cannot be split"),
        ({"labels": ",".join(map(str, range(21)))}, "21 labels"),
        ({"labels": f"cat,{'d' * 2000}"}, "2000 characters"),
        ({"method": "magic"}, "magic"),
        ({"method": "all"}, "one method"),
        ({"views": "0"}, "views"),
        ({"views": "100000"}, "between 1 and 200"),
        ({"views": "many"}, "whole number from 1 to 1000000, or adaptive"),
        ({"views": "adaptive", "method": "clip"}, "method clip has no adaptive views"),
        ({"top_k": "0"}, "top_k"),
        ({"top_k": str(10**30)}, "top_k"),
        ({"descriptions": json.dumps({label: ["\ud800"] for label in LABELS})}, "descriptions"),
        ({"descriptions": "/etc/passwd"}, "JSON"),
        ({"descriptions": '{"cat": "soft"}'}, "descriptions.cat"),
        ({"descriptions": '{"cat": ["soft"], "rocket": ["steep"]}'}, "cup of coffee"),
        ({"descriptions": json.dumps(dict.fromkeys(LABELS, ["x"] * 3334))}, "10002 descriptions"),
        ({"encoder": "other"}, "encoder"),
    ],
)
def test_bad_questions_get_a_reason(client, fields, word):
    reason(ask(client, ("a.png", CHELSEA), **fields), 422, word)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"images": []}, "images"),
        ({"images": ["/etc/passwd"]}, "no base64"),
        ({"images": [as_base64(CHELSEA)], "labels": "cat,dog"}, "labels"),
        ({"images": [as_base64(CHELSEA)], "views": "4"}, "views"),
        ({"images": ["aGk="] * 4}, "4 images"),
        ({"images": ["aGk="]}, "number 1"),
    ],
)
def test_bad_json_gets_a_reason(client, body, word):
    reason(ask_json(client, **body), 422, word)


def test_bad_bodies_get_a_reason(client):
    def post(content, kind):
        return client.post("/v1/classify", content=content, headers={"content-type": kind})

    reason(post(b"{not json", "application/json"), 422, "JSON")
    reason(post(b"[" * 100_000, "application/json"), 422)
    reason(post(b"nothing", "multipart/form-data"), 422, "boundary")
    reason(post(b"nothing", "multipart/form-data; boundary=x"), 422, "the form cannot be read")
    reason(post(b"a=b", "application/x-www-form-urlencoded"), 415, "multipart/form-data")
    reason(client.post("/v1/classify", data={"images": "/etc/passwd"}, files={"x": b""}), 422, "files")
    reason(ask(client, *[("a.png", CHELSEA)] * 4), 422, "3")
    reason(client.post("/v1/classify", files={"images": CHELSEA, "labels": b"cat,dog"}), 422, "labels")


def test_names_are_echoed_and_never_opened(client, server):
    (server.folder / "secret.png").write_bytes(CHELSEA)
    secret = str(server.folder / "secret.png")
    assert ask(client, (secret, CHELSEA)).json()["results"][0]["image"] == secret
    reason(ask(client, (secret, b"")), 422, "cannot be read")
    reason(ask_json(client, images=[secret]), 422, "base64")


def test_what_is_not_there_says_so_in_json(client):
    reason(client.get("/v1/nothing"), 404, "/docs")
    response = client.delete("/v1/health")
    reason(response, 405, "GET")
    assert response.headers["allow"] == "GET"


def test_nobody_gets_in_without_the_password(server):
    with httpx.Client(base_url=server.url) as stranger:
        for path in ("/", "/docs", "/openapi.json", "/config", "/v1/health", "/gradio_api/info"):
            for auth in (None, ("anna", "wrong"), ("bert", AUTH[1]), ("anna", "")):
                response = stranger.get(path, auth=auth)
                reason(response, 401, "password")
                assert response.headers["www-authenticate"].startswith("Basic")
        reason(stranger.get("/v1/health", headers={"authorization": b"Basic \xff"}), 401)


# Limits on bytes and on the queue


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(server, *lines, path="/v1/classify"):
    login = as_base64(":".join(AUTH).encode())
    common = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Basic {login}", "Content-Type: application/json")
    return "\r\n".join([*common, *lines, "", ""]).encode()


ALL_THAT_TAKE_BODIES = pytest.mark.parametrize("path", ["/v1/classify", "/gradio_api/queue/join"])


@ALL_THAT_TAKE_BODIES
def test_a_body_that_says_it_is_too_large_is_not_waited_for(server, path):
    with connect(server) as raw:
        raw.sendall(head(server, "Content-Length: 1000000000", path=path))
        said = raw.makefile().read()
    assert said.startswith("HTTP/1.1 413")
    assert "larger than 3 MB" in said
    assert "connection: close" in said.lower()


@ALL_THAT_TAKE_BODIES
def test_a_body_without_end_is_cut_off(server, path):
    sent = 0
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connect(server) as raw:
        raw.sendall(head(server, "Transfer-Encoding: chunked", path=path))
        try:
            while sent < 300_000_000:
                raw.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        said = raw.recv(100).decode()
    assert said.startswith("HTTP/1.1 413")
    assert 3_000_000 < sent < 30_000_000


def test_a_full_queue_says_so_and_recovers(client, server):
    with_bodies_to_come = [connect(server) for _ in range(5)]
    for raw in with_bodies_to_come:
        raw.sendall(head(server, "Content-Length: 1000") + b"{")
    wait_for(lambda: client.get("/v1/health").json()["waiting"] == 5)
    response = ask(client, ("a.png", CHELSEA))
    reason(response, 429, "5 are the limit")
    assert int(response.headers["retry-after"]) > 0
    for raw in with_bodies_to_come:
        raw.close()
    wait_for(lambda: client.get("/v1/health").json()["waiting"] == 0)
    assert ask(client, ("a.png", CHELSEA)).status_code == 200


# The OpenAPI document

OPERATIONS = (("/v1/classify", "POST"), ("/v1/health", "GET"), ("/v1/encoders", "GET"))


@pytest.fixture(scope="module")
def document(client):
    document = client.get("/openapi.json").json()
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert described == set(OPERATIONS)
    return document


@pytest.fixture(scope="module")
def api(document):
    # The login is tested above; here it is always sent.
    del document["components"]["securitySchemes"]
    for methods in document["paths"].values():
        for operation in methods.values():
            del operation["security"]
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(
    ("path", "method", "mode"), [*((*each, "POSITIVE") for each in OPERATIONS), (*OPERATIONS[0], "NEGATIVE")]
)
def test_the_document_is_kept(api, server, path, method, mode):
    @given(case=api[path][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case):
        # What fits the document may still be no image, and a form cannot show some of what is wrong, as an empty list.
        excluded = [positive_data_acceptance, *([negative_data_rejection] if "form" in str(case.media_type) else [])]
        case.call_and_validate(base_url=server.url, auth=AUTH, excluded_checks=excluded)

    check()


# docs/serve.md


def examples(language):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def curls():
    return [line for block in examples("sh") for line in block.splitlines() if line.startswith("curl")]


@pytest.fixture(scope="module")
def shown(server, tmp_path_factory):
    """A folder as the document has it, and the document's words for this server."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(PHOTOS / name, folder / "photos")
    return lambda text: text.replace("http://127.0.0.1:7860", server.url.replace("//", f"//{AUTH[0]}:{AUTH[1]}@")), folder


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_the_documents_curl_runs(shown):
    here, folder = shown
    line, _ = curls()
    done = subprocess.run(here(line), shell=True, cwd=folder, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    (documented,) = map(json.loads, examples("json"))
    assert answer.keys() == documented.keys()
    for one, other in zip(answer["results"], documented["results"], strict=True):
        assert one["image"] == other["image"]
        assert one["predictions"][0] == pytest.approx(other["predictions"][0], abs=0.01)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_the_documents_curl_with_examples_runs(shown):
    here, folder = shown
    cat, coffee = (Image.open(PHOTOS / name) for name in ("chelsea.png", "coffee.png"))
    for name, photo, box in (
        ("new", cat, (50, 50, 400, 300)),
        ("a", cat, (0, 0, 300, 300)),
        ("b", cat, (150, 0, 450, 300)),
        ("c", coffee, (0, 0, 400, 400)),
        ("d", coffee, (200, 0, 600, 400)),
    ):
        photo.crop(box).save(folder / f"{name}.png")
    _, line = curls()
    done = subprocess.run(here(line), shell=True, cwd=folder, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["results"][0]["label"] == "mine"
    assert "(leave-one-out on 4 examples: examples 100.0 %)" in answer["mixture"]


def test_the_documents_python_runs(shown):
    here, folder = shown
    (program,) = examples("python")
    done = subprocess.run([sys.executable, "-c", here(program)], cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("cat\n", 0), done.stderr


def test_it_says_where_it_listens_and_keeps_to_loopback(server):
    (said,) = server.said
    assert said.startswith("crossalign listens on http://127.0.0.1:")
    assert "other machines" not in "".join(server.complained)


def test_it_ends_soon_and_tells_those_who_wait(client, server):
    """The last of this file, since it ends the server."""
    with ThreadPoolExecutor(1) as pool, client.stream("GET", "/gradio_api/heartbeat/abc") as held_open:
        assert held_open.status_code == 200
        waiting = pool.submit(ask, client, *[("a.png", CHELSEA)] * 3, views="200")
        wait_for(lambda: client.get("/v1/health").json()["waiting"] == 3)
        server.process.terminate()
        reason(waiting.result(30), 503, "shutting down")
    assert server.process.wait(30) == 0
