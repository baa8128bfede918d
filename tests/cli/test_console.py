"""Consoles that lack letters, and lists as Windows, find and people write them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import PHOTOS
from crossalign.cli import main
from crossalign.cli._console import paths_from_stdin

SCRIPT = Path(sys.executable).with_name("crossalign")
JPEG = (PHOTOS / "rocket.jpg").read_bytes()
NAMES = ("кошка", "собака", "猫", "😀")


def run(*words, encoding="utf-8", stdin=b""):
    command = [SCRIPT, *map(str, words)]
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, input=stdin, env=environment, timeout=120)
    assert b"Traceback" not in done.stderr, done.stderr.decode(encoding)
    return done


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
@pytest.mark.slow
def test_an_answer_is_not_lost_on_a_console_that_lacks_its_letters(tmp_path, encoding):
    image = tmp_path / "снимок.jpg"
    image.write_bytes(JPEG)
    asked = ["classify", image, "--labels", ",".join(NAMES), "--method", "clip", "--top-k", 9]
    done = run(*asked, "--json", encoding=encoding)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout.decode(encoding))
    assert result["image"] == str(image)
    assert {found["label"] for found in result["predictions"]} == set(NAMES)


@pytest.mark.slow
def test_every_command_and_stream_escapes(tmp_path):
    for words in (
        ["describe", "--labels", ",".join(NAMES), "--dry-run"],
        ["classify", "нет.jpg", "--labels", ",".join(NAMES), "--method", "clip", "--csv"],
        ["explain", "нет.jpg", "--labels", ",".join(NAMES)],
        ["evaluate", "--dataset", "folder", "--data-path", "нет"],
    ):
        done = run(*words, encoding="cp1252")
        said = (done.stdout + done.stderr).decode("cp1252")
        assert r"\u043d\u0435\u0442" in said or r"\u043a\u043e\u0448\u043a\u0430" in said


def listed(content, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["classify", "-", "--labels", "cat,rocket", "--method", "clip", "--json"]
    result = CliRunner().invoke(main, words, input=content)
    return [(found["image"], found["error"] is None) for found in json.loads(result.stdout)]


@pytest.mark.parametrize(
    "content",
    [
        b"a.jpg\nb.jpg\n",
        b"a.jpg\r\nb.jpg\r\n",
        b"\xef\xbb\xbfa.jpg\nb.jpg",
        b"\n\na.jpg\r\n\r\nb.jpg\n",
        "a.jpg\r\nb.jpg\r\n".encode("utf-16"),
        b"a.jpg\0b.jpg\0",
    ],
    ids=["plain", "CRLF", "byte order mark", "empty lines", "UTF-16", "find -print0"],
)
def test_a_list_finds_its_files(tmp_path, monkeypatch, content):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    assert listed(content, tmp_path, monkeypatch) == [("a.jpg", True), ("b.jpg", True)]


@pytest.mark.slow
def test_blanks_belong_to_names_and_line_ends_come_by_nul(tmp_path, monkeypatch):
    for name in (" a.jpg ", "b\nc.jpg", "猫.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    assert listed(" a.jpg \n猫.jpg\n".encode(), tmp_path, monkeypatch) == [(" a.jpg ", True), ("猫.jpg", True)]
    assert listed(b"b\nc.jpg\0 a.jpg \0", tmp_path, monkeypatch) == [("b\nc.jpg", True), (" a.jpg ", True)]


def test_a_list_in_a_code_page_is_read_where_paths_are_utf8(monkeypatch):
    """As on Windows, where an older program writes the list."""
    monkeypatch.setattr(os, "fsdecode", lambda content: content.decode("utf-8"))
    listed = io.BytesIO("é.jpg\nb.jpg\n".encode("cp1252"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(listed, encoding="cp1252"))
    assert paths_from_stdin() == ["é.jpg", "b.jpg"]


@pytest.mark.slow
def test_a_name_that_is_no_text_keeps_its_bytes(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    with open(path, "wb") as file:
        file.write(JPEG)
    done = run("classify", "-", "--labels", "cat,rocket", "--method", "clip", "--csv", stdin=path + b"\n")
    assert path in done.stdout


def test_labels_come_through_a_locale_without_utf8():
    environment = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PATH": os.environ["PATH"]}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH", "CROSSALIGN_CACHE", "HOME") if name in os.environ}
    done = subprocess.run(
        [SCRIPT, "describe", "--labels", "猫", "--dry-run"], capture_output=True, env=environment, timeout=60
    )
    assert (done.returncode, rb"Class: \u732b" in done.stdout or "Class: 猫".encode() in done.stdout) == (0, True), done
