"""Published description files become ours, and what is amiss with them is said."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import crossalign.text.descriptions as room
from conftest import DATA
from crossalign.cli import main
from crossalign.datasets import classes_of
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.text import prompts
from crossalign.text.descriptions import bundled_descriptions, load_descriptions, normalise_name
from crossalign.text.descriptions.importing import import_descriptions, import_report, imported_content

PUBLISHED = """{
 "american_bulldog": ["a broad head", "often has a white coat", "a  broad head", "- black"],
 "Birman": ["a pale cat", "white paws"],
 "American Bulldog": ["used as a guard dog"],
 "unicorn": ["a horn"],
 "Bengal": [], "Birman": ["blue eyes"]
}"""


def call(*words):
    return CliRunner().invoke(main, ["describe", *map(str, words)])


def test_a_published_file_is_imported_and_its_faults_reported(tmp_path):
    source, output = tmp_path / "dclip.json", tmp_path / "ours.json"
    source.write_text(PUBLISHED)
    labels = "American Bulldog,Birman,Bengal,Pug"
    words = ["describe", "--from", source, "--labels", labels, "--output", output]
    done = subprocess.run([Path(sys.executable).with_name("crossalign"), *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "1 entry of no wanted class: unicorn",
        "2 classes without descriptions: Bengal, Pug",
        "2 classes more than once, put together: american_bulldog, Birman",
        "1 text tidied: marks of lists and bold type, subjects of fragments, full stops behind them",
    ]
    made = json.loads(output.read_text(encoding="utf-8"))
    assert (made["schema"], made["style"], made["source"], made["missing"]) == (
        1,
        "fragments",
        "dclip.json",
        ["Bengal", "Pug"],
    )
    assert made["classes"]["American Bulldog"] == [
        "a broad head",
        "often has a white coat",
        "a broad head",
        "black",
        "used as a guard dog",
    ]
    assert made["classes"]["Birman"] == ["a pale cat", "white paws", "blue eyes"]
    inputs = prompts.prompt_inputs(["American Bulldog"], descriptions=[load_descriptions(output)])
    assert prompts.descriptor_sentences(inputs) == [
        [
            f"American Bulldog, which {rest}"
            for rest in (
                "is a broad head",
                "often has a white coat",
                "is a broad head",
                "has black",
                "is used as a guard dog",
            )
        ]
    ]
    before = output.read_bytes()
    done = call("--from", source, "--output", output)
    assert (done.exit_code, "already exists" in done.stderr, output.read_bytes()) == (2, True, before)


def test_a_folder_is_imported_class_by_class(tmp_path):
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "american_bulldog.txt").write_text(
        "An American Bulldog is white.\n\nIt has a big head.\n", encoding="utf-8-sig"
    )
    (folder / "pug.json").write_text('["A pug has a flat face."]')
    (folder / "cats.json").write_text('{"Birman": ["A Birman has white paws."], "Pug": ["A pug is small."]}')
    (folder / "README.md").write_text("not read")
    output = tmp_path / "ours.json"
    done = call("--from", folder, "--output", output)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "1 class more than once, put together: Pug\n"
    loaded = load_descriptions(output)
    assert loaded.style == "sentences"
    assert loaded.classes == {
        "american_bulldog": ("An American Bulldog is white.", "It has a big head."),
        "Birman": ("A Birman has white paws.",),
        "Pug": ("A pug is small.", "A pug has a flat face."),
    }


def test_our_own_file_is_imported_as_it_is(tmp_path):
    own = Path(room.__file__).with_name("oxford_pet.json")
    done = call("--from", own, "--dataset", "oxford_pet", "--output", tmp_path / "pets.json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert load_descriptions(tmp_path / "pets.json").classes == bundled_descriptions("oxford_pet").classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "are no JSON"),
        ("[1]", "does not hold"),
        ('{"a": "text"}', "has for 'a' something else"),
        ('{"a": {"b": ["c"]}}', "has for 'a' something else"),
        ('{"a": [1]}', "has for 'a' something else"),
        ("{}", "names no classes"),
        ('{"schema": 2, "classes": {"a": ["b"]}}', "has schema 2"),
        ('{"schema": 1, "style": "odd", "classes": {"a": ["b"]}}', "has style 'odd'"),
        ('{"schema": 1, "style": "sentences", "classes": ["b"]}', "names no classes"),
        ("[" * 100000, "are no JSON"),
        (b"\xff\xfe\xff", "no UTF-8"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    source = tmp_path / "bad.json"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        import_descriptions(source)


def test_names_with_signs_stay_apart(tmp_path):
    source = tmp_path / "languages.json"
    source.write_text('{"C++": ["two plus signs"], "C#": ["a hash sign"], "c": ["one letter"]}')
    imported = import_descriptions(source, ["C#", "C++", "C"])
    assert imported.classes == {"C#": ("a hash sign",), "C++": ("two plus signs",), "C": ("one letter",)}
    assert list(import_report(imported)) == []


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:.*do not name their class:UserWarning")
@pytest.mark.parametrize("path", sorted(DATA.glob("descriptions/*/*.json")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imported_files_say_what_the_published_ones_do(path, tmp_path):
    """For every class either can be matched with, all methods' prompts are the same."""
    classes = classes_of(load_config(path.stem.removesuffix("-cupl").removesuffix("-clip-d")))
    names = tuple(dict.fromkeys(classes.published)) if path.parent.name == "wca" else classes.names
    aliases = [classes.aliases[(classes.published if path.parent.name == "wca" else names).index(name)] for name in names]
    imported = import_descriptions(path, names, aliases)
    (tmp_path / "ours.json").write_text(json.dumps(imported_content(imported, path.name)), encoding="utf-8")
    ours, published = load_descriptions(tmp_path / "ours.json"), load_descriptions(path)
    assert ours.style == published.style_for(names, aliases)
    with pytest.warns() if imported.missing else contextlib.nullcontext():
        expected = published.tidy(ours.style, names, aliases, allow_missing=True)
    assert [ours.classes.get(name, ()) for name in names] == expected
    assert len(imported.classes) + len(imported.missing) == len(names)
    known = {normalise_name(name) for name in published.classes}
    assert {normalise_name(name) for name in imported.unmatched} <= known
    assert path.parent.name != "wca" or not (imported.missing or imported.unmatched)


def test_published_names_that_classes_share_are_one_class(tmp_path):
    source = tmp_path / "place365.json"
    source.write_text(json.dumps({"arena": ["An arena has seats."], "airfield": ["An airfield is flat."]}))
    words = ["--from", source, "--dataset", "places365", "--class-names", "published", "--output", tmp_path / "ours.json"]
    done = call(*words)
    assert done.exit_code == 1
    assert "342 classes without descriptions" in done.stderr
    assert load_descriptions(tmp_path / "ours.json").classes == {
        "arena": ("An arena has seats.",),
        "airfield": ("An airfield is flat.",),
    }
