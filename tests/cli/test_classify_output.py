"""`classify --output`: whatever ends a run, the same command goes on, and the file is the same to the byte."""

import copy
import csv
import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from PIL import Image
from pyarrow import parquet

from conftest import PHOTOS
from crossalign import Classifier
from crossalign.cli import _journal, main
from crossalign.cli._journal import Journal
from crossalign.cli._labelling import check_labels_file, label_into
from crossalign.errors import InputError
from crossalign.reports.formats import json_text

SCRIPT = Path(sys.executable).with_name("crossalign")
LABELS = ["cat", "dog", "cup of coffee"]
ODD = os.fsdecode(b'002 odd\xff,"\r.jpg')
ENDINGS = pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
INTERRUPTED = (
    "interrupted; printed labels are complete, run it on the other images; "
    "with --output run the same command again to resume\n"
)
TOGETHER = 8
"""Pictures that are encoded together, and so kept together."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """32 pictures; the second cannot be read, and the third's name is no text."""
    folder = tmp_path_factory.mktemp("labelled") / "photos"
    folder.mkdir()
    with Image.open(PHOTOS / "chelsea.png") as cat:
        for number in range(32):
            name = {1: "001 broken.jpg", 2: ODD}.get(number, f"{number:03}.jpg")
            cat.crop((4 * number, 0, 4 * number + 240, 240)).save(folder / name)
    (folder / "001 broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def few(photos):
    """Two times as many as are kept together, which is enough where no process is to be hit in the middle."""
    return sorted(map(str, photos.iterdir()))[: 2 * TOGETHER]


@pytest.fixture(scope="module")
def classify(builtin):
    return Classifier(LABELS, encoder=builtin, method="clip")


@pytest.fixture(scope="module")
def whole(few, classify, tmp_path_factory):
    """What uninterrupted runs write, by ending, and under "part" the whole journal of one."""
    folder = tmp_path_factory.mktemp("whole")
    for ending in ("csv", "jsonl", "parquet"):
        assert label_into(folder / f"labels.{ending}", classify, few, 2) == 1
    found = {file.suffix[1:]: file.read_bytes() for file in folder.iterdir()}
    # A folder where the file should be: all is labelled, and then nothing can be written.
    (folder / "blocked.csv").mkdir()
    with pytest.raises(InputError, match=r"blocked.csv' cannot be written"):
        label_into(folder / "blocked.csv", classify, few, 2)
    return found | {"part": (folder / ".blocked.csv.part").read_bytes()}


@pytest.fixture
def stopped(tmp_path, whole):
    """The journal of a run that labelled all and was stopped then, and the file that it belongs to."""

    def stopped(ending="csv", content=whole["part"]):
        (tmp_path / f".labels.{ending}.part").write_bytes(content)
        return tmp_path / f"labels.{ending}"

    return stopped


def refused(match, *arguments):
    with pytest.raises(InputError, match=match):
        label_into(*arguments)


# Real processes


def start(folder, *options, output=("--output", "labels.csv")):
    words = ["classify", "photos", "--labels", ",".join(LABELS), "--views", "1", "--runtime", "torch", *output, *options]
    return subprocess.Popen(
        [SCRIPT, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as a terminal's shell leaves it
    )


@contextmanager
def stopped_after(process, journal, lines):
    """Hold a process still as soon as its journal has so many lines, and kill it in the end."""
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.kill()
        process.wait()


def ended(process):
    out, err = process.communicate(timeout=120)
    assert b"Traceback" not in err
    return process.returncode, out, err.decode()


def test_a_run_that_is_killed_and_interrupted_ends_in_the_same_bytes(photos, tmp_path):
    folder, file, journal = photos.parent, tmp_path / "labels.csv", tmp_path / ".labels.csv.part"
    output = ("--output", file)
    file.write_bytes(b"from before")
    with stopped_after(start(folder, output=output), journal, lines=3):
        left = journal.read_bytes()
        assert 3 <= left.count(b"\n") <= 17
        code, out, err = ended(start(folder, output=output))
        assert (code, out) == (2, b"")
        assert re.fullmatch(
            r"Error: another process is at work on journal '.+'; wait for it, or name another --output\n", err
        )
        assert file.read_bytes() == b"from before"
    assert journal.read_bytes() == left
    (tmp_path / f".labels.csv.{'0a' * 16}.part").write_bytes(b"what a kill leaves in the very last moment")

    process = start(folder, output=output)
    with stopped_after(process, journal, lines=2 * TOGETHER + 2):
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        code, _, err = ended(process)
    assert (code, time.monotonic() - sent < 2) == (130, True)
    assert err.endswith(INTERRUPTED)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".labels.csv.part", "labels.csv"]

    code, out, err = ended(start(folder, output=output))
    assert (code, out) == (1, b"")
    kept = int(re.search(r"^(\d+) of 32 pictures were labelled before; going on\n", err, re.MULTILINE)[1])
    assert TOGETHER < kept < 32
    assert f"{32 - kept} of {32 - kept} pictures" in err
    assert err.endswith(f"labels: {file}\n1 of 32 pictures could not be read\n")
    assert list(tmp_path.iterdir()) == [file]
    code, out, _ = ended(start(folder, output=("--csv",)))
    assert (code, out) == (1, file.read_bytes())


# The parts in this process


@pytest.mark.parametrize(
    ("ending", "cut"),
    [
        pytest.param("csv", lambda part: b"", id="at once"),
        pytest.param("jsonl", lambda part: part[:30], id="in the first line"),
        pytest.param("csv", lambda part: bytes(30), id="zeros in the first line"),
        pytest.param("parquet", lambda part: part[: part.index(b"\n") + 1], id="before the first picture"),
        pytest.param("csv", lambda part: b"".join(part.splitlines(True)[: TOGETHER + 1]), id="between two lines"),
        pytest.param("jsonl", lambda part: part[: part.rindex(b'{"image"') + 40], id="in the last line"),
        pytest.param("csv", lambda part: part[:-1], id="before its end"),
        pytest.param("parquet", lambda part: part[:-300] + bytes(300), id="zeros, as a power cut leaves them"),
        pytest.param("parquet", lambda part: part, id="before the file was written"),
    ],
)
def test_a_journal_cut_anywhere_is_gone_on_with(classify, few, whole, stopped, capsys, ending, cut):
    content = cut(whole["part"])
    file = stopped(ending, content)
    assert label_into(file, classify, few, 2) == 1
    assert file.read_bytes() == whole[ending]
    assert list(file.parent.iterdir()) == [file]
    kept = max(0, content.rstrip(b"\0").count(b"\n") - 1)
    assert (f"{kept} of 16 pictures were labelled before" in capsys.readouterr().err) == (kept > 0)


def test_the_three_kinds_say_the_same(classify, few, whole):
    results = classify(few, top_k=2)
    lines = whole["jsonl"].decode("utf-8", "surrogateescape").splitlines()
    assert lines == [json_text(result) for result in results]
    assert json.loads(lines[2])["image"] == few[2]
    rows = list(csv.DictReader(io.StringIO(whole["csv"].decode("utf-8", "surrogateescape"), newline="")))
    table = parquet.read_table(io.BytesIO(whole["parquet"]))
    kinds = ["string", "int32", "string", "double", "double", "string"]
    assert [(field.name, str(field.type)) for field in table.schema] == list(zip(rows[0], kinds, strict=True))
    typed = table.to_pylist()
    assert [(row["image"].replace("\udcff", "\\xff"), row["label"], row["error"]) for row in rows] == [
        (row["image"], row["label"] or "", row["error"] or "") for row in typed
    ]
    scores = [(found.score, found.probability) for result in results for found in result.predictions]
    assert [(row["score"], row["probability"]) for row in typed if row["error"] is None] == scores
    (broken,) = (row for row in typed if row["error"])
    assert set(broken.values()) == {few[1], None, broken["error"]}


def test_groups_of_rows_join_to_one_table(classify, few, whole, stopped, monkeypatch):
    monkeypatch.setattr("crossalign.reports.formats.GROUP_ROWS", 10)
    file = stopped("parquet")
    label_into(file, classify, few, 2)
    assert parquet.ParquetFile(file).num_row_groups == 4
    assert parquet.read_table(file).equals(parquet.read_table(io.BytesIO(whole["parquet"])))


@pytest.fixture(scope="module")
def begun(builtin, few, tmp_path_factory):
    """The journal of a run of WCA with six views a picture."""
    file = tmp_path_factory.mktemp("begun") / "labels.csv"
    file.mkdir()
    refused("cannot be written", file, Classifier(LABELS, encoder=builtin, views=6), few[:TOGETHER], 2)
    return file.with_name(".labels.csv.part").read_bytes()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"labels": [*LABELS, "rocket"]}, "list of labels"),
        ({"labels": LABELS[::-1]}, "list of labels"),
        ({"method": "mean-views"}, "method"),
        ({"form": "paper"}, "form"),
        ({"seed": 1}, "seed"),
        ({"views": 5}, "way to choose views"),
        ({"views": "adaptive", "max_views": 6}, "way to choose views"),
        ({"crop_scale": (0.2, 0.9)}, "way to choose views"),
        ({"descriptions": {label: ["has an edge"] for label in LABELS}}, "set of descriptions"),
        ({"domain": "thing", "descriptions": {label: ["has an edge"] for label in LABELS}}, "set of descriptions"),
        ({"top_k": 3}, "top-k"),
        ({"fingerprint": "another"}, "encoder"),
        ({"logit_scale": 10.0}, "encoder"),
    ],
)
def test_other_settings_are_refused(builtin, few, begun, stopped, changed, name):
    given = {"labels": LABELS, "encoder": copy.copy(builtin), "views": 6} | changed
    for key in {"fingerprint", "logit_scale"} & given.keys():
        setattr(given["encoder"], key, given.pop(key))
    top_k = given.pop("top_k", 2)
    file = stopped(content=begun)
    refused(
        rf"^journal '.+/\.labels\.csv\.part' was begun with another {name}; "
        "give the command that began it, remove the journal, or name another --output$",
        *(file, Classifier(**given), few, top_k),
    )
    assert file.with_name(".labels.csv.part").read_bytes() == begun
    assert not file.exists()


def test_the_runtime_is_one_of_the_settings(few, stopped, begun, builtin):
    from crossalign.encoders import Runtime

    encoder = copy.copy(builtin)
    encoder.runtime = Runtime("torch", "bf16", builtin.runtime.run)
    refused("another runtime", stopped(content=begun), Classifier(LABELS, encoder=encoder, views=6), few, 2)


@pytest.mark.parametrize(
    ("pictures", "match"),
    [
        (lambda few: few[1:], r"number 1 was '.+000.jpg' and is '.+001 broken.jpg' now"),
        (lambda few: few[:3] + few[4:], r"number 4 was '.+003.jpg' and is '.+004.jpg' now"),
        (lambda few: few[:-1], r"number 16 was '.+015.jpg' and is nothing now"),
    ],
)
def test_another_list_of_pictures_is_refused(classify, few, whole, stopped, pictures, match):
    file = stopped()
    refused(match, file, classify, pictures(few), 2)
    assert file.with_name(".labels.csv.part").read_bytes() == whole["part"]


def test_a_list_may_grow_behind_what_is_labelled(classify, few, whole, stopped, tmp_path, capsys):
    content = b"".join(whole["part"].splitlines(True)[:13])
    assert label_into(stopped(content=content), classify, [*few, few[0]], 2) == 1
    assert "12 of 17 pictures were labelled before" in capsys.readouterr().err
    label_into(tmp_path / "anew.csv", classify, [*few, few[0]], 2)
    assert (tmp_path / "labels.csv").read_bytes() == (tmp_path / "anew.csv").read_bytes()


@pytest.mark.parametrize("change", ["replaced", "removed", "mended"])
def test_a_picture_that_changed_is_labelled_anew_with_what_follows(classify, few, whole, tmp_path, capsys, change):
    pictures = [shutil.copy2(picture, str(tmp_path / os.path.basename(picture))) for picture in few]
    (tmp_path / "labels.csv").mkdir()
    refused("cannot be written", tmp_path / "labels.csv", classify, pictures, 2)
    (tmp_path / "labels.csv").rmdir()
    changed = pictures[1 if change == "mended" else 12]
    if change == "removed":
        os.remove(changed)
    else:
        shutil.copy(PHOTOS / "coffee.png", changed)
    failed = label_into(tmp_path / "labels.csv", classify, pictures, 2)
    err = capsys.readouterr().err
    assert f"{changed!r} has changed since it was labelled; it and what follows is done anew" in err
    assert f"{1 if change == 'mended' else 12} of 16 pictures were labelled before" in err
    assert failed == {"replaced": 1, "removed": 2, "mended": 0}[change]
    label_into(tmp_path / "anew.csv", classify, pictures, 2)
    assert (tmp_path / "labels.csv").read_bytes() == (tmp_path / "anew.csv").read_bytes()


@pytest.mark.parametrize("content", [b"a diary\n", b"a diary", b"{}\n", b'{"crossalign"\n'])
def test_a_file_that_is_no_journal_is_left_alone(classify, few, stopped, content):
    file = stopped(content=content)
    refused("is no journal of labels; move it, or name another --output", file, classify, few, 2)
    assert file.with_name(".labels.csv.part").read_bytes() == content


def test_the_lock_of_a_journal_that_another_process_removed_is_not_enough(tmp_path, monkeypatch):
    """Between opening and locking another process may finish; then there are two files of that name, one after the other."""
    path, flock, calls = tmp_path / "journal", fcntl.flock, []

    def flock_after_it_was_removed(file, operation):
        if not calls:
            path.unlink()
        calls.append(file)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_it_was_removed)
    journal = Journal(path, {"crossalign version": "1"})
    assert (len(calls), path.exists()) == (2, True)
    journal.close()


@contextmanager
def files_no_longer_than(size):
    """Let the system's limit stand for a disk that fills up in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("lines", [0, TOGETHER + 3, 2 * TOGETHER])
def test_a_disk_that_is_full_loses_nothing(classify, few, whole, stopped, lines):
    file = stopped(content=b"")
    size = len(b"".join(whole["part"].splitlines(True)[:lines])) + 50
    with files_no_longer_than(size):
        refused(r"journal '.+' cannot be written \(File too large\); what it holds is kept: mend", file, classify, few, 2)
    assert file.with_name(".labels.csv.part").stat().st_size == size
    label_into(file, classify, few, 2)
    assert file.read_bytes() == whole["csv"]


@ENDINGS
def test_a_disk_that_is_full_at_the_very_end_loses_nothing(classify, few, whole, stopped, ending):
    file = stopped(ending)
    with files_no_longer_than(600):
        refused(rf"labels.{ending}' cannot be written \(.*File too large.*\); free", file, classify, few, 2)
    assert [path.read_bytes() for path in file.parent.iterdir()] == [whole["part"]]


def test_a_folder_that_vanishes_is_noticed(classify, few, tmp_path, monkeypatch):
    monkeypatch.setattr(_journal, "SYNC_EVERY", 0)
    folder = tmp_path / "folder"
    folder.mkdir()
    journal = Journal(folder / "journal", {"crossalign version": "1"})
    assert journal.take_up(few) == 0
    result = classify(few[0])[0]
    journal.add(result, None)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"journal '.+' is gone from its folder; bring it back and run the same command"):
        journal.add(result, None)
    journal.close()
    assert len((tmp_path / "elsewhere" / "journal").read_bytes().splitlines()) == 3


def test_pictures_may_have_any_name(classify, stopped, tmp_path):
    names = ["a\0b.jpg", "", "a\nb.jpg", ODD]
    assert label_into(tmp_path / "labels.csv", classify, names, 1) == 4
    rows = csv.DictReader(io.StringIO((tmp_path / "labels.csv").read_bytes().decode("utf-8", "surrogateescape"), newline=""))
    assert [row["image"] for row in rows] == names


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("labels.txt", r"output '.+labels.txt' ends in none of .csv, .jsonl, .parquet; give it one of these endings"),
        ("labels", "ends in none of"),
        (".csv", "ends in none of"),
        ("gone/labels.csv", "its folder is missing"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path, output, match):
    with pytest.raises(InputError, match=match):
        check_labels_file(str(tmp_path / output))
    assert check_labels_file(str(tmp_path / "labels.CSV"))


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow; run `pip install pyarrow`, or write .csv or .jsonl"):
        check_labels_file(str(tmp_path / "labels.parquet"))


@pytest.mark.parametrize("other", [["--json"], ["--csv"], ["--report", "report.html"]])
def test_output_excludes_what_else_is_shown(other):
    with pytest.raises(click.UsageError, match="--output excludes --json, --csv and --report"):
        main.main(["classify", "a.jpg", "--labels", "a,b", "--output", "labels.csv", *other], standalone_mode=False)
