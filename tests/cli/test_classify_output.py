"""`classify --output` and the store: whatever ends a run, the same command goes on, and the file is the same to the byte."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from command import fails, run
from conftest import PHOTOS
from crossalign import Classifier
from crossalign.cli import main
from crossalign.cli.classify import _labels_file
from crossalign.errors import InputError
from crossalign.features.image_cache import content_digest
from crossalign.reports.formats import WRITERS, json_text
from crossalign.store.shards import Store

resource = pytest.importorskip("resource", reason="needs the limits and signals of POSIX")
SCRIPT = Path(sys.executable).with_name("crossalign")
LABELS = ["cat", "dog", "cup of coffee"]
ODD = os.fsdecode(b'002 odd\xff,"\r.jpg')
IMAGES = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """32 images; the second cannot be read, and the third's name is no text."""
    folder = tmp_path_factory.mktemp("labelled") / "photos"
    folder.mkdir()
    with Image.open(PHOTOS / "chelsea.png") as cat:
        for number in range(IMAGES):
            name = {1: "001 broken.jpg", 2: ODD}.get(number, f"{number:03}.jpg")
            cat.crop((4 * number, 0, 4 * number + 240, 240)).save(folder / name)
    (folder / "001 broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def few(photos):
    return sorted(map(str, photos.iterdir()))[:16]


@pytest.fixture(scope="module")
def classify(builtin):
    return Classifier(LABELS, encoder=builtin, method="clip")


@pytest.fixture(scope="module")
def whole(few, classify):
    """What is written about a few images, by ending."""
    written = {}
    for ending, write in WRITERS.items():
        out = io.BytesIO()
        write(classify.stream(few, 2), out)
        written[ending[1:]] = out.getvalue()
    return written


# Real processes


def start(folder, output, *options):
    words = ["classify", "photos", "--labels", ",".join(LABELS), "--views", "2", "--runtime", "torch", *options]
    return subprocess.Popen(
        [SCRIPT, *words, "--output", output, "--store", output.parent / "store"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a terminal's shell leaves it
    )


def cached(folder):
    return len(list((folder / "store" / "images").glob("*/shard-*.safetensors")))


@contextmanager
def stopped_after(process, folder, images):
    """Hold a process still as soon as so many images are in the store, and kill it in the end."""
    try:
        while cached(folder) < images:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_run_that_is_killed_and_interrupted_ends_in_the_same_bytes(photos, tmp_path):
    folder, file = photos.parent, tmp_path / "labels.csv"
    file.write_bytes(b"from before")
    with stopped_after(start(folder, file), tmp_path, 3):
        assert cached(tmp_path) < IMAGES - 1
        assert file.read_bytes() == b"from before"
    left = cached(tmp_path)
    (tmp_path / f".labels.csv.{'0a' * 16}.part").write_bytes(b"what a kill leaves in the very last moment")

    process = start(folder, file)
    with stopped_after(process, tmp_path, left + 3):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.endswith(
        b"interrupted; encoded images are cached, unless --no-store was given: run the same command again to resume\n"
    )
    assert file.read_bytes() == b"from before"

    left = cached(tmp_path)
    process = start(folder, file)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, b"")
    assert f"features of {left} of {IMAGES} images came from the store" in err.decode()
    assert err.decode().endswith(f"labels: {file}\n1 of {IMAGES} images could not be read\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "store"]

    (tmp_path / "anew").mkdir()
    process = start(folder, tmp_path / "anew" / "labels.csv")
    process.communicate(timeout=120)
    assert (tmp_path / "anew" / "labels.csv").read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_other_labels_need_no_image_again_and_no_store_leaves_no_trace(tmp_path):
    shutil.copy(PHOTOS / "chelsea.png", tmp_path / "a.png")
    store = tmp_path / "store"
    words = ("classify", tmp_path / "a.png", "--runtime", "torch", "--method", "clip", "--json")
    first = run(*words, "--labels", "cat,dog", "--store", store)
    assert first.returncode == 0, first.stderr
    (tmp_path / "a.png").rename(tmp_path / "another name.png")
    words = ("classify", tmp_path / "another name.png", *words[2:])
    second = run(*words, "--labels", "fox,cat,teapot", "--store", store)
    assert "features of 1 of 1 images came from the store" in second.stderr
    assert json.loads(second.stdout)[0]["label"] == "cat"
    nothing = run(*words, "--labels", "cat,dog", "--no-store", env={"CROSSALIGN_CACHE": str(tmp_path / "empty")})
    assert nothing.returncode == 0, nothing.stderr
    assert "came from the store" not in nothing.stderr
    assert json.loads(nothing.stdout)[0]["predictions"] == json.loads(first.stdout)[0]["predictions"]
    left = sorted({path.parent.parent.name for path in (tmp_path / "empty").rglob("*.safetensors")})
    assert left == ["anchors"], "nothing of the images and labels"
    assert "exclude each other" in fails(*words, "--labels", "cat,dog", "--no-store", "--store", store)


@pytest.mark.slow
def test_a_store_that_cannot_be_used_is_no_reason_not_to_classify(tmp_path):
    (tmp_path / "file").write_text("no folder")
    words = ("classify", PHOTOS / "chelsea.png", "--labels", "cat,dog", "--method", "clip", "--runtime", "torch")
    done = run(*words, env={"CROSSALIGN_CACHE": str(tmp_path / "file")})
    assert done.returncode == 0, done.stderr
    assert "nothing is cached" in done.stderr
    assert "cannot be used" in fails(*words, "--store", tmp_path / "file")


# The parts in this process


@pytest.mark.parametrize("views", ["adaptive", 5])
@pytest.mark.slow
def test_features_from_the_store_are_the_same_bits(builtin, few, tmp_path, views):
    store = Store(tmp_path)
    fresh = [features for _, features in Classifier(LABELS, encoder=builtin, views=views).encode(few[2:6])]
    for _ in range(2):
        again = Classifier(LABELS, encoder=builtin, views=views, store=store)
        stored = [features for _, features in again.encode(few[2:6])]
        assert all(torch.equal(one, other) for one, other in zip(fresh, stored, strict=True))
    assert again.cached_images == 4
    other = Classifier(LABELS, encoder=builtin, views=views, seed=1, store=store)
    list(other.encode(few[2:4]))
    assert other.cached_images == 0, "other boxes are other features"


@pytest.mark.slow
def test_adaptive_features_in_the_store_grow_with_what_other_labels_need(builtin, few, tmp_path):
    store = Store(tmp_path)
    easy = Classifier(["cat", "airliner"], encoder=builtin, store=store)
    hard = Classifier(["tabby cat", "tiger cat", "Egyptian cat", "Siamese cat"], encoder=builtin, store=store)
    alone = Classifier(["tabby cat", "tiger cat", "Egyptian cat", "Siamese cat"], encoder=builtin)
    lengths = []
    for image in few[2:4]:
        ((_, short),) = easy.encode([image])
        ((_, long),) = hard.encode([image])
        ((_, fresh),) = alone.encode([image])
        lengths.append((len(short), len(long)))
        assert torch.equal(long, fresh)
        ((_, again),) = easy.encode([image])
        assert torch.equal(again, short), "the answer depends on the image, not on what is in the store"
    assert any(long > short for short, long in lengths), "else this tests nothing"


@pytest.mark.slow
def test_a_damaged_file_in_the_store_is_encoded_again(builtin, few, tmp_path):
    classify = Classifier(LABELS, encoder=builtin, views=2, store=Store(tmp_path))
    ((_, features),) = classify.encode(few[:1])
    (file,) = (tmp_path / "images").glob("*/shard-*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    ((_, again),) = Classifier(LABELS, encoder=builtin, views=2, store=Store(tmp_path)).encode(few[:1])
    assert torch.equal(features, again)
    assert run("store", "verify", "--store", tmp_path).returncode == 0


def test_a_full_disk_ends_the_caching_but_not_the_run(builtin, few, tmp_path):
    classify = Classifier(LABELS, encoder=builtin, views=2, store=Store(tmp_path))
    with files_no_longer_than(100), pytest.warns(UserWarning, match="features of images are not cached any more"):
        results = classify(few[2:5])
    assert [result.label for result in results] == ["cat"] * 3


def test_the_digest_is_of_the_content(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert content_digest(tmp_path / "a.jpg") == content_digest(str(tmp_path / "a.jpg")) == content_digest(b"abc")
    assert content_digest(b"abd") != content_digest(b"abc")
    assert content_digest(tmp_path / "gone.jpg") is None
    assert content_digest("a\0b") is None
    os.mkfifo(tmp_path / "pipe.jpg")
    assert content_digest(tmp_path / "pipe.jpg") is None


@contextmanager
def files_no_longer_than(size):
    """Let the system's limit stand for a disk that fills up in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_the_three_kinds_say_the_same(classify, few, whole):
    results = classify(few, top_k=2)
    lines = whole["jsonl"].decode("utf-8", "surrogateescape").splitlines()
    assert lines == [json_text(result) for result in results]
    assert json.loads(lines[2])["image"] == few[2]
    rows = list(csv.DictReader(io.StringIO(whole["csv"].decode("utf-8", "surrogateescape"), newline="")))
    table = parquet.read_table(io.BytesIO(whole["parquet"]))
    kinds = ["string", "int32", "string", "double", "double", "string", "string"]
    assert [(field.name, str(field.type)) for field in table.schema] == list(zip(rows[0], kinds, strict=True))
    typed = table.to_pylist()
    assert [(row["image"].replace("\udcff", "\\xff"), row["label"], row["error"]) for row in rows] == [
        (row["image"], row["label"] or "", row["error"] or "") for row in typed
    ]
    scores = [(found.score, found.probability) for result in results for found in result.predictions]
    assert [(row["score"], row["probability"]) for row in typed if row["error"] is None] == scores
    (broken,) = (row for row in typed if row["error"])
    assert set(broken.values()) == {few[1], None, broken["error"]}


def test_groups_of_rows_join_to_one_table(classify, few, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("crossalign.reports.formats.GROUP_ROWS", 10)
    file = tmp_path / "labels.parquet"
    with open(file, "wb") as out:
        WRITERS[".parquet"](classify.stream(few, 2), out)
    assert parquet.ParquetFile(file).num_row_groups == 4
    assert parquet.read_table(file).equals(parquet.read_table(io.BytesIO(whole["parquet"])))


def test_images_may_have_any_name(classify):
    names = ["a\0b.jpg", "", "a\nb.jpg", ODD]
    out = io.BytesIO()
    WRITERS[".csv"](classify.stream(names, 1), out)
    rows = csv.DictReader(io.StringIO(out.getvalue().decode("utf-8", "surrogateescape"), newline=""))
    assert [row["image"] for row in rows] == names


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("labels.txt", r"output '.+labels.txt' ends in none of .csv, .jsonl, .parquet; give it one of these endings"),
        ("labels", "ends in none of"),
        (".csv", "ends in none of"),
        ("gone/labels.csv", "its folder does not exist"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path, output, match):
    with pytest.raises(InputError, match=match):
        _labels_file(str(tmp_path / output))
    assert _labels_file(str(tmp_path / "labels.CSV"))


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow; run `pip install pyarrow`, or write .csv or .jsonl"):
        _labels_file(str(tmp_path / "labels.parquet"))


@pytest.mark.parametrize("other", [["--json"], ["--csv"], ["--report", "report.html"]])
def test_output_excludes_what_else_is_shown(other):
    with pytest.raises(click.UsageError, match="--output excludes --json, --csv and --report"):
        main.main(["classify", "a.jpg", "--labels", "a,b", "--output", "labels.csv", *other], standalone_mode=False)
