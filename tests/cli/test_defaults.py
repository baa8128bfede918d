"""What classify and explain do with labels alone, and with descriptions that do not know all labels."""

import json

import pytest

from command import fails, run
from conftest import PHOTOS
from crossalign.cli._descriptions import say_bundled

CAT = PHOTOS / "chelsea.png"
PETS = ("--labels", "siamese,Egyptian Mau,beagle", "--views", "2")
LINE = (
    "descriptions: bundled 'oxford_pet' (all 3 labels are among its classes); --descriptions none takes hand-written "
    "templates\n"
)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({"Siamese": ["has points"], "beagle": ["has long ears"]}))
    return tmp_path / "own.json"


@pytest.mark.slow
def test_classify_says_that_it_takes_bundled_descriptions():
    done = run("classify", CAT, *PETS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(LINE) == 1
    assert "Egyptian Mau" in done.stdout


@pytest.mark.slow
def test_explain_says_so_too_and_shows_them():
    done = run("explain", CAT, *PETS, "--method", "clip", "--against", "wca")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(LINE) == 1
    assert ", which has " in done.stdout


@pytest.mark.parametrize("other", [("--descriptions", "none"), ("--method", "clip-e")])
@pytest.mark.slow
def test_nothing_is_said_where_they_are_not_used(other):
    done = run("classify", CAT, *PETS, *other)
    assert done.returncode == 0, done.stderr
    assert "descriptions" not in done.stderr


def test_serve_says_what_its_own_labels_get(capsys):
    say_bundled(["siamese", "pug"], "requests may bring others")
    say_bundled(["siamese", "pugs and more"], "requests may bring others")
    line = "descriptions: bundled 'oxford_pet' (all 2 labels are among its classes); requests may bring others\n"
    assert capsys.readouterr() == ("", line)


def test_a_near_name_is_told(own):
    message = fails("explain", CAT, "--labels", "Siamese cat,beagle", "--descriptions", own)
    assert "no descriptions for 1 of 2 classes: Siamese cat (did you mean 'Siamese'?)" in message
    assert "--allow-missing" in message


@pytest.mark.parametrize("command", ["classify", "explain"])
@pytest.mark.slow
def test_missing_descriptions_may_be_allowed(command, own):
    done = run(command, CAT, "--labels", "Siamese cat,beagle", "--views", "2", "--descriptions", own, "--allow-missing")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "Siamese cat" in line]
    assert line.startswith("Warning: ")
    assert line.endswith("hand-written prompts stand for them")
    assert "Siamese cat 0." in done.stdout


def test_a_style_needs_a_file():
    message = fails("classify", CAT, *PETS, "--descriptions", "none", "--description-style", "sentences")
    assert "--description-style needs a file in --descriptions" in message
