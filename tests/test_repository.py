"""What the files around the package say of it: versions, markers, the container's health check, the notebook."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import crossalign
from server import serving

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_everywhere_the_same():
    released = re.findall(r"^## \[(\d[^]]*)\] - (\d{4}-\d\d-\d\d)$", text("CHANGELOG.md"), re.MULTILINE)
    citation = yaml.safe_load(text("CITATION.cff"))
    assert (citation["version"], citation["date-released"]) == released[0]
    assert released[0][0] == crossalign.__version__
    assert [version for version, _ in released] == sorted({version for version, _ in released}, reverse=True)


def test_each_marker_is_left_out_of_the_fast_tests_in_the_same_words():
    (fast,) = re.findall(r'^FAST := (-m ".*")$', text("Makefile"), re.MULTILINE)
    assert fast in text(".github/workflows/checks.yml")
    (markers,) = re.findall(r"^markers = \[\n(.*?)^\]", text("pyproject.toml"), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"not (\w+)", fast)) == set(re.findall(r'^ +"(\w+):', markers, re.MULTILINE))


@pytest.mark.parametrize("path", [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"], ids=str)
def test_each_yaml_file_of_the_repository_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_container_installs_what_it_copies():
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", text("Dockerfile"), re.MULTILINE) for word in line.split()[:-1]
    }
    assert copied == {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    extras = re.findall(r"^ARG EXTRAS=(\w+)$", text("Dockerfile"), re.MULTILINE)
    assert f"\n{extras[0]} = [" in text("pyproject.toml")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--auth", "anna:WORD"]])
def test_the_containers_health_check_knows_a_server_and_its_absence(options):
    (check,) = re.findall(r"^    CMD (\[.*\])$", text("Dockerfile"), re.MULTILINE)
    program = json.loads(check)[2]
    assert "7860" in program
    with serving(*options, WORD="correct-horse") as running:
        port = running.url.rpartition(":")[2]
        command = [sys.executable, "-c", program.replace("7860", port)]
        assert subprocess.run(command, timeout=60).returncode == 0
    assert subprocess.run(command, timeout=60, stderr=subprocess.DEVNULL).returncode != 0


@pytest.mark.slow
def test_the_notebook_runs_and_its_outputs_are_those_shown(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    shown = printed(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert printed(notebook) == shown
    assert "cat" in shown


def printed(notebook):
    """All text that cells print, without numbers, which differ between processors in their last digits."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    return re.sub(r"\d+\.\d+", "#", said)
