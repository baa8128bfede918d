"""What the documents show is run, or at least understood by the program as it stands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

from conftest import PHOTOS
from crossalign.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page):
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.search(r"(^|\| )crossalign ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page):
    for line in commands(page):
        words = shlex.split(line.split("| ")[-1], comments=True)
        name, *options = words[1 : words.index(">") if ">" in words else None]
        command = main.get_command(click.Context(main), name)
        assert command is not None, line
        if options:
            command.make_context(name, options).close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    (folder / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(PHOTOS / name, folder / "photos")
        example = folder / "examples" / Path(name).stem
        example.mkdir(parents=True)
        with Image.open(PHOTOS / name) as photo:
            photo.crop((0, 0, 250, 250)).save(example / "crop.png")
    return folder


@pytest.mark.slow
def test_the_readmes_python_runs(folder):
    (example, *_) = blocks(ROOT / "README.md", "python")
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("cat\n", 0), done.stderr


@pytest.mark.slow
def test_the_readmes_first_commands_run(folder):
    shown = [line for line in commands(ROOT / "README.md") if line.startswith("crossalign classify")]
    # Quantising takes a minute, and has tests of its own.
    first = [line for line in shown if "s3://" not in line and "int8" not in line]
    assert len(first) >= 2
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path} | {
        name: os.environ[name] for name in ("CROSSALIGN_CACHE", "OMP_NUM_THREADS") if name in os.environ
    }
    for line in first:
        done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
    assert (folder / "labels.csv").read_text().splitlines()[1].startswith("photos/chelsea.png,1,cat,")
