"""Prompts as the authors' programs make them, string for string."""

import json
from pathlib import Path

import pytest

from conftest import DATA
from crossalign.datasets import classes_of
from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.evaluation.reproduction.sources import find_descriptions, released_prompts
from crossalign.text.names import match_names
from crossalign.text.phrasing import descriptor_sentence
from crossalign.text.prompts import SOURCES, PromptInputs, descriptor_sentences

DCLIP = json.loads((Path(__file__).parents[1] / "oracles" / "prompts" / "dclip.json").read_text(encoding="utf-8"))
ROWS = {"clip": "photo", "clip-e": "templates", "clip-d": "descriptor_sentences", "cupl": "sentences"}


@pytest.mark.parametrize(("setting", "end"), [("default", ""), ("imagenet", "."), ("lazsl_imagenet", ".")])
def test_clip_ds_sentences_are_its_programs(setting, end):
    for name, expected in DCLIP["outputs"][setting].items():
        # The program gives a class without descriptors an empty one; here such a class is refused, or has its prompt.
        descriptors = DCLIP["inputs"]["descriptors"][name] or [""]
        assert [descriptor_sentence(name, text, end=end) for text in descriptors] == expected


def test_the_source_gives_them_too():
    described = {name: texts for name, texts in DCLIP["inputs"]["descriptors"].items() if texts}
    expected = [DCLIP["outputs"]["default"][name] for name in described]
    assert descriptor_sentences(PromptInputs(tuple(described), descriptors=list(described.values()))) == expected
    assert descriptor_sentences(PromptInputs(("otter",), descriptors=[[]])) == [["a photo of a otter."]]


def test_released_prompts_take_published_names_and_texts_as_they_stand(tmp_path):
    config = load_config("places365")
    names = dict.fromkeys(classes_of(config).published)
    (tmp_path / "place365-clip-d.json").write_text(json.dumps({name: ["antlers.", "antlers."] for name in names}))
    (tmp_path / "place365-cupl.json").write_text(json.dumps({name: [f"- A {name}\n is **here**."] for name in names}))
    (tmp_path / "places365.json").write_text(json.dumps({name: ["of another program"] for name in names}))
    inputs = released_prompts(config, [tmp_path], seed=3)
    assert inputs.seed == 3
    assert SOURCES["photo"](inputs)[15:17] == [["a photo of a arena."]] * 2
    assert SOURCES["templates"](inputs)[15] == [
        "a photo of a arena, a type of place.",
        "a photo of the arena, a type of place.",
    ]
    assert SOURCES["descriptor_sentences"](inputs)[16] == ["arena, which is antlers."] * 2
    assert SOURCES["sentences"](inputs)[16] == ["- A arena is **here**."]


def test_files_of_wcas_release_come_first(tmp_path):
    for name in ("cub", "cub-cupl", "cub-clip-d", "cubs"):
        folder = tmp_path / ("z" if name.startswith("cub-") else "a")
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text('{"a": ["b"]}')
    found = [Path(file.source).name for file in find_descriptions(load_config("cub"), [tmp_path])]
    assert found == ["cub-clip-d.json", "cub-cupl.json", "cub.json"]
    (file,) = find_descriptions(load_config("cub"), [tmp_path / "a" / "cub.json"], "sentences")
    assert file.style == "sentences"
    assert [file.source for file in find_descriptions(load_config("cub"), [tmp_path / "a" / "cubs.json"])] == ["bundled:cub"]


def test_a_file_that_lacks_a_class_is_refused(tmp_path):
    (tmp_path / "dtd.json").write_text('{"banded": ["bands"]}')
    with pytest.raises(InputError, match=r"dtd\.json has no descriptions for 46 of 47 classes"):
        released_prompts(load_config("dtd"), [tmp_path])


def test_published_names_find_the_bundled_descriptions():
    inputs = released_prompts(load_config("imagenet"), [])
    assert SOURCES["descriptor_sentences"](inputs)[744][0].startswith("projectile, which has ")
    assert inputs.descriptors[744] != inputs.descriptors[657]
    assert inputs.descriptors[836] != inputs.descriptors[837]


@pytest.mark.shared
@pytest.mark.parametrize("path", sorted(DATA.glob("released/*.json")), ids=lambda path: path.stem)
def test_every_prompt_of_the_released_program(path):
    released = json.loads(path.read_text(encoding="utf-8"))
    inputs = released_prompts(load_config(path.stem), [DATA / "descriptions"])
    assert list(inputs.templates) == released.get("templates", list(inputs.templates))
    assert len(released["prompts"]) >= 2
    for row, by_class in released["prompts"].items():
        made = SOURCES[ROWS[row]](inputs)
        names = inputs.names_before_descriptors if row == "clip-d" else inputs.names
        assert list(names) == [name for name, _ in by_class], row
        for ours, (name, texts) in zip(made, by_class, strict=True):
            assert [" ".join(text.split()) for text in ours] == [" ".join(text.split()) for text in texts], (row, name)


@pytest.mark.shared
def test_cupls_file_has_all_of_imagenet():
    inputs = released_prompts(load_config("imagenet"), [DATA / "descriptions" / "cupl"])
    content = json.loads((DATA / "descriptions" / "cupl" / "imagenet.json").read_text(encoding="utf-8"))
    for row in (657, 744):
        assert list(inputs.sentences[row]) == content["missile"]
    assert list(inputs.sentences[836]) == content["sunglasses"]


@pytest.mark.shared
@pytest.mark.parametrize(
    "dataset", ["caltech101", "cub", "dtd", "eurosat", "flowers102", "food101", "imagenet", "oxford_pet"]
)
def test_every_published_entry_of_a_dataset_has_a_class(dataset):
    config = load_config(dataset)
    for path in DATA.glob(f"descriptions/*/{dataset}*.json"):
        if (path.parent.name, path.stem) == ("cupl", "cub"):
            continue  # CuPL's file of that name describes Birdsnap's 500 classes.
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = classes_of(config)
        assert set(content) - set(match_names(content, classes.names, classes.aliases)) <= {"background"}
