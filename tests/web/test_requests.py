"""What clients send: labels in every notation, base64 as programs write it, and questions of browsers."""

import base64
import io
import textwrap

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from conftest import PHOTOS
from crossalign.errors import InputError
from crossalign.web.api import create_app
from crossalign.web.engine import Engine, Limits
from crossalign.web.guards import Access
from crossalign.web.label_sets import Defaults

ORIGIN = "http://localhost:3000"
LABELS = ["cat", "rocket"]


def small_png():
    file = io.BytesIO()
    Image.open(PHOTOS / "chelsea.png").resize((90, 60)).save(file, "PNG")
    return file.getvalue()


PNG = small_png()
TEXT = base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def engine(builtin):
    engine = Engine(builtin, Limits(), Defaults(("one", "two")))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(engine):
    with TestClient(create_app(engine)) as client:
        yield client


def form(client, labels, **headers):
    data = {"labels": labels, "method": "clip", "top_k": "9"}
    return client.post("/v1/classify", files={"images": PNG}, data=data, headers=headers)


def in_json(client, **body):
    return client.post("/v1/classify", json={"images": [TEXT], "labels": LABELS, "method": "clip"} | body)


def names(response):
    assert response.status_code == 200, response.text
    return {prediction["label"] for prediction in response.json()["results"][0]["predictions"]}


@pytest.mark.parametrize(
    "labels", ["cat,rocket", '["cat", "rocket"]', "1. cat\n2. rocket", "cat\r\nrocket", ["cat", "rocket"]]
)
def test_a_form_takes_labels_in_every_notation(client, labels):
    assert names(form(client, labels)) == {"cat", "rocket"}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ('["cat", "dog"', "labels begins like JSON, but is none"),
        ("Cat,cat,dog", "'Cat' and 'cat' are one name"),
        ("", "0 labels given"),
        ("['cat', 'dog']", "begins like JSON"),
    ],
)
def test_a_form_with_other_labels_is_refused(client, labels, words):
    response = form(client, labels)
    assert response.status_code == 422
    assert words in response.json()["reason"]


def test_an_empty_list_is_no_leave_to_take_the_servers_labels(client):
    response = in_json(client, labels=[])
    assert (response.status_code, response.json()["reason"].split(" given")[0]) == (422, "0 labels")
    assert names(in_json(client, labels=None)) == {"one", "two"}
    response = in_json(client, labels=["t-shirt", "T shirt", "dog"])
    assert (response.status_code, "'t-shirt' and 'T shirt' are one name" in response.json()["reason"]) == (422, True)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;charset=utf-8;BASE64,{TEXT}",
        "\n".join(textwrap.wrap(TEXT, 76)),
        "\r\n".join(textwrap.wrap(TEXT, 64)) + "\r\n",
        base64.urlsafe_b64encode(PNG).decode(),
    ],
    ids=["plain", "data URL", "capital data URL", "wrapped", "wrapped by CRLF", "URL-safe"],
)
def test_base64_is_read_as_programs_write_it(client, text):
    assert names(in_json(client, images=[text])) == set(LABELS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:image/png,%89PNG", "image number 2 is a data URL without base64; send data:image/png;base64,..."),
        ("not base64!", "image number 2 is no base64; send the file's bytes as base64, or a data URL"),
        ("AAAAA", "image number 2 is no base64"),
    ],
)
def test_what_is_no_base64_is_named(client, text, words):
    response = in_json(client, images=[TEXT, text])
    assert response.status_code == 422
    assert words in response.json()["reason"]


def preflight(client, origin, path="/v1/classify", method="POST"):
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
    return client.options(path, headers=headers)


def test_other_origins_are_shut_out_by_default(client):
    assert preflight(client, ORIGIN).status_code == 405
    assert "access-control-allow-origin" not in form(client, "cat,rocket", Origin=ORIGIN).headers


def test_named_origins_are_let_in_and_a_password_stays_a_password(engine):
    app = create_app(engine, Access(("anna", "word"), (ORIGIN,)))
    with TestClient(app) as client:
        asked = preflight(client, ORIGIN)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in asked.headers
        refused = form(client, "cat,rocket", Origin=ORIGIN)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
        login = {"Authorization": "Basic " + base64.b64encode(b"anna:word").decode()}
        answer = form(client, "cat,rocket", Origin=ORIGIN, **login)
        assert (names(answer), answer.headers["access-control-allow-origin"]) == ({"cat", "rocket"}, ORIGIN)
        other = form(client, "cat,rocket", Origin="http://evil.example", **login)
        assert "access-control-allow-origin" not in other.headers
        assert preflight(client, "http://evil.example").status_code == 400
        # What is no API stays closed to all other origins.
        assert "access-control-allow-origin" not in client.get("/docs", headers={"Origin": ORIGIN, **login}).headers


def test_every_origin_may_be_let_in(engine):
    with TestClient(create_app(engine, Access(origins=("*",)))) as client:
        assert preflight(client, "https://a.example").headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("access", "words"),
    [
        ({"origins": ("localhost:3000",)}, "origin 'localhost:3000' is none; give scheme and host"),
        ({"origins": ("https://example.org/app",)}, "origin 'https://example.org/app' is none"),
        ({"root_path": "tools"}, "root path 'tools' is no path; give one such as /tools/crossalign"),
        ({"root_path": "/a b"}, "root path '/a b' is no path"),
        ({"root_path": "/v1/x"}, "root path '/v1/x' begins as the server's own paths do"),
    ],
)
def test_wrong_origins_and_prefixes_say_so(access, words):
    with pytest.raises(InputError, match=words):
        Access(**access)


def test_a_server_that_shuts_down_says_503(builtin):
    engine = Engine(builtin, Limits())
    with TestClient(create_app(engine)) as client:
        engine.close()
        response = form(client, "cat,rocket")
    assert (response.status_code, response.json()) == (503, {"reason": "the server is shutting down"})
