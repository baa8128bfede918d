"""Reports, as the commands write them."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conftest import PHOTOS

SCRIPT = Path(sys.executable).with_name("crossalign")
NASTY = "cat <b>&\"'</b>"


def run(*arguments):
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True)


class Page(HTMLParser):
    """Collects tags with their attributes, and texts."""

    def __init__(self, file):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def pictures(self):
        return [attributes for tag, attributes in self.tags if tag == "article"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    for label, photo in {"cat": "chelsea.png", "cup of coffee": "coffee.png", "rocket": "rocket.jpg"}.items():
        (root / "in" / label).mkdir(parents=True)
        shutil.copy(PHOTOS / photo, root / "in" / label / f"a&b<{photo}")
    shutil.copy(PHOTOS / "rocket.jpg", root / "in" / "cat" / "not a cat.jpg")
    (root / "in" / "rocket" / "broken.jpg").write_text("no picture")
    labels = "cat,cup of coffee,rocket"
    done = run("classify", root / "in", "--labels", labels, "--views", "4", "--csv", "--report", root / "r.html")
    assert done.returncode == 1, done.stderr
    return root / "r.html"


@pytest.mark.slow
def test_images_are_in_the_page_smallest_margin_first(report):
    pictures = Page(report).pictures()
    assert len(pictures) == 5
    margins = [float(p["data-margin"]) for p in pictures]
    assert margins == sorted(margins)
    assert "data-failed" in pictures[0]
    by_name = {Path(p["data-file"]).name: p for p in pictures}
    assert by_name["a&b<chelsea.png"]["data-label"] == "cat"
    assert by_name["not a cat.jpg"]["class"] == "image wrong"
    assert by_name["a&b<rocket.jpg"]["class"] == "image"


def test_the_page_needs_nothing_from_outside(report):
    page = Page(report)
    sources = [a.get("src") or a.get("href") for tag, a in page.tags if tag in ("img", "script", "link", "iframe")]
    assert all(source is None or source.startswith("data:image/jpeg;base64,") for source in sources)
    assert len([source for source in sources if source]) == 4
    assert report.stat().st_size < 4 * 16_000 + 20_000


def test_class_folders_give_accuracy_and_confusion(report):
    page = Page(report)
    assert any(text.startswith("3 of 4 right: 75.0 %") for text in page.texts)
    matrix = re.search(r'<table class="matrix">(.*?)</table>', report.read_text(), re.DOTALL)[1]
    rows = [re.findall(r"<td[^>]*>(\d*)</td>", row) for row in matrix.split("<tr>")[2:]]
    assert rows == [["1", "", "1"], ["", "1", ""], ["", "", "1"]]


def test_reasons_are_sentences_about_the_label(report):
    text = report.read_text()
    (article,) = re.findall(r'<article[^>]*data-label="cup of coffee".*?</article>', text, re.DOTALL)
    reasons = re.findall(r"<li>(.*?)</li>", article)
    assert len(reasons) == 3
    assert all("cup of coffee" in reason for reason in reasons)


@pytest.mark.slow
def test_names_are_escaped(tmp_path):
    shutil.copy(PHOTOS / "chelsea.png", tmp_path / "<script>alert(1)<&.png")
    (tmp_path / "labels.txt").write_text(f"{NASTY}\ndog\n")
    labels = ("--labels-file", tmp_path / "labels.txt")
    done = run("classify", tmp_path, *labels, "--views", "2", "--report", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text
    assert "cat <b>" not in text
    (picture,) = Page(tmp_path / "r.html").pictures()
    assert picture["data-label"] in (NASTY, "dog")
    assert picture["data-file"].endswith("<script>alert(1)<&.png")


@pytest.mark.slow
def test_evaluate_reports_methods_and_classes(tmp_path):
    for label, photo in {"cat": "chelsea.png", "rocket": "rocket.jpg"}.items():
        (tmp_path / "in" / label).mkdir(parents=True)
        shutil.copy(PHOTOS / photo, tmp_path / "in" / label)
    files = ("--output", tmp_path / "r.json", "--report", tmp_path / "r.html", "--store", tmp_path / "store")
    done = run(
        "evaluate", "--dataset", "folder", "--data-path", tmp_path / "in", "--methods", "clip,waffle", "--views", "1", *files
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"<tr><td>(.*?)</td><td><div.*?</td>\s*<td class=\"number\">(.*?)</td>", (tmp_path / "r.html").read_text(), re.DOTALL
    )
    found = {row["method"]: f"{row['top1']:.2f}" for row in json.loads((tmp_path / "r.json").read_text())["results"]}
    assert dict(rows[:2]) == found
    assert [name for name, _ in rows[2:]] == ["cat", "rocket"] * 2


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    done = run("classify", PHOTOS / "chelsea.png", "--labels", "cat,dog", "--report", tmp_path / "no" / "r.html")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stdout == ""
