"""The cases of users' trouble in the measuring data: each command of theirs, with what must happen."""

import io
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from conftest import DATA
from crossalign import Classifier
from crossalign.cli import main
from crossalign.distributed._sources import find_files, units_of
from crossalign.errors import InputError
from crossalign.images.decoding import read_image
from crossalign.text.labels import check_labels, read_labels_file
from crossalign.web.api import create_app
from crossalign.web.engine import Engine, Limits
from llm_answers import answering, described

pytestmark = pytest.mark.shared
CASES = DATA / "cases"


def run(*words, **how):
    done = CliRunner().invoke(main, [str(word) for word in words], **how)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def classify(*words):
    return run("classify", *words, "--views", 2)


def describe(folder, body, output, *options, labels="red fox,tabby cat", base="/v1"):
    asked = ["--labels", labels] if labels else []
    with answering((json.loads((CASES / folder / body).read_text()),)) as (url, _):
        words = ["describe", *asked, "--base-url", url + base, "--model", "any", "--output", output, *options]
        return run(*words, env={"OPENAI_API_KEY": None})


@pytest.mark.parametrize("kind", ["case", "marks", "unicode"])
def test_04_twins_are_refused(kind):
    with pytest.raises(InputError, match="are one name"):
        check_labels(read_labels_file(CASES / "04-labels-alike" / f"labels-{kind}.txt"))


def test_04_different_labels_run():
    folder = CASES / "04-labels-alike"
    assert classify(folder / "picture.jpg", "--labels-file", folder / "labels-different.txt").exit_code == 0


@pytest.mark.parametrize(("body", "words"), [("wrong-path.json", "Unexpected endpoint"), ("refused-key.json", "No auth")])
def test_11_the_servers_words_end_the_run(tmp_path, body, words):
    done = describe("11-error-with-200", body, tmp_path / "a.json", base="")
    assert (done.exit_code, words in done.stderr) == (2, True)


def test_12_no_draft_is_taken(tmp_path):
    done = describe("12-thoughts", "half-closed.json", tmp_path / "a.json")
    assert done.exit_code == 0
    assert described(tmp_path / "a.json")["red fox"][0] == "a long tapering tail"
    done = describe("12-thoughts", "never-closed.json", tmp_path / "b.json")
    assert (done.exit_code, "truncated at the token limit" in done.stderr) == (1, True)
    assert "DRAFT" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_14_a_long_wait_is_told(tmp_path):
    body = json.loads((CASES / "14-retry-after" / "quota.json").read_text())
    with answering((body, 429, {"Retry-After": "300"})) as (url, _):
        words = ["describe", "--labels", "ape,bee", "--base-url", f"{url}/v1", "--model", "any", "--output", tmp_path / "a"]
        done = run(*words, env={"OPENAI_API_KEY": None})
    assert (done.exit_code, "asks to wait 300 s" in done.stderr) == (2, True)


def test_15_letters_are_described(tmp_path):
    file = CASES / "15-one-letter-classes" / "labels.txt"
    done = describe("15-one-letter-classes", "answer.json", tmp_path / "a.json", "--labels-file", file, labels="")
    assert (done.exit_code, list(described(tmp_path / "a.json"))) == (0, ["A", "B", "I", "black"]), done.stderr


@pytest.mark.parametrize(
    ("file", "labels"),
    [
        ("labels.json", ["cat", "dog", "cup of coffee"]),
        ("one-line.txt", ["cat", "dog", "cup of coffee"]),
        ("classes.txt", ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"]),
    ],
)
def test_17_labels_in_another_notation(builtin, file, labels):
    folder = CASES / "17-labels-as-json"
    assert read_labels_file(folder / file) == labels
    engine = Engine(builtin, Limits())
    with TestClient(create_app(engine)) as client:
        data = {"labels": (folder / file).read_text(), "method": "clip"}
        answer = client.post("/v1/classify", files={"images": (folder / "picture.jpg").read_bytes()}, data=data).json()
    engine.close()
    found = {p["label"] for p in answer["results"][0]["predictions"]}
    assert found == set(labels)


def test_20_two_images_and_two_classes():
    folder = CASES / "20-mac-and-hidden"
    done = classify(folder / "photos", "--labels", "cat,dog", "--csv", "--top-k", 1)
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 3)
    assert (
        "2 classes" in run("evaluate", "--dataset", "folder", "--data-path", folder / "classes", "--methods", "clip").stderr
    )


def test_21_suffixes():
    folder = CASES / "21-odd-suffixes"
    done = classify(folder / "photos", "--labels", "cat,dog", "--csv", "--top-k", 1)
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 13)
    done = run("evaluate", "--dataset", "folder", "--data-path", folder / "classes", "--methods", "clip")
    assert done.exit_code == 0


def test_23_megapixels():
    folder = CASES / "23-megapixels"
    done = classify(folder / "108mp.jpg", folder / "panorama.jpg", "--labels", "cat,dog", "--csv", "--top-k", 1)
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 3)


@pytest.mark.filterwarnings("ignore:an image of 16 bits")
def test_24_twelve_bits():
    seen = [read_image(CASES / "24-twelve-bit" / f"{name}").float() for name in ("8.png", "12in16.png", "12in16-sbit.png")]
    seen += [read_image(CASES / "24-twelve-bit" / name).float() for name in ("full16.png", "12in16.tif")]
    assert all((image - seen[0]).abs().max() <= 1 for image in seen)


@pytest.mark.filterwarnings("ignore:an image of 16 bits")
def test_25_arrays_and_bytes(builtin):
    folder = CASES / "25-arrays-and-bytes"
    classify = Classifier(["cat", "dog", "a blank white page"], encoder=builtin, views=4)
    (expected,) = classify(str(folder / "picture.png"))
    content = (folder / "picture.png").read_bytes()
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    for given in (content, io.BytesIO(content), {"bytes": content, "path": None}, [content], arrays["twelve-bits"]):
        (found,) = classify(given)
        assert (found.label, found.error) == (expected.label, None), type(given)
    for given in (arrays["float32-0-to-255"], arrays["standardised"], arrays["channels-first"], None):
        (found,) = classify(given)
        assert found.label is None
        assert re.search("; give ", found.error)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("27-numbered-folders/flowers-kaggle/valid", "4 of 4 class folders are called by numbers"),
        ("28-a-foreign-wnid/train", "n01872772; rename"),
        ("29-splits-as-classes/animals", "look like splits, not classes"),
        ("29-splits-as-classes/cats-vs-dogs", "look like splits, not classes"),
    ],
)
@pytest.mark.filterwarnings("default::UserWarning")
def test_27_to_29_codes_and_splits_are_told(place, words):
    done = run("evaluate", "--dataset", "folder", "--data-path", CASES / place, "--methods", "clip")
    assert words in done.stderr
    assert done.exit_code == (2 if "29-" in place else 0)


def test_34_lists_of_windows(monkeypatch):
    monkeypatch.chdir(CASES / "34-console-and-crlf")
    for name in ("list-crlf.txt", "list-bom.txt"):
        content = (CASES / "34-console-and-crlf" / name).read_bytes()
        done = run("classify", "-", "--labels", "cat,dog", "--views", 2, "--csv", input=content)
        assert (done.exit_code, len(done.stdout.splitlines())) == (0, 5)


def test_35_tars_and_tables():
    folder = CASES / "35-tars-and-tables"
    done = classify(folder / "null-rows.parquet", folder / "wds.tar", "--labels", "cat,dog")
    assert (done.exit_code, "--executor ray" in done.stderr) == (2, True)
    read = {}
    for name in ("null-rows.parquet", "mask-first.parquet", "hash-first.parquet", "wds.tar"):
        (unit,) = units_of(find_files([str(folder / name)]), 64)
        read[name] = []
        for image in unit.images(lambda number: True):
            try:
                read_image(image)
                read[name].append("")
            except InputError as error:
                read[name].append(str(error))
    assert read["mask-first.parquet"][0] == read["hash-first.parquet"][0] == ""
    assert [bool(error) for error in read["null-rows.parquet"]] == [False, True, True]
    assert [bool(error) for error in read["wds.tar"]] == [False, False, False, True]
