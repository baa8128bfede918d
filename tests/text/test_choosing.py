"""Which descriptions labels get when none are given, and what may be given."""

import json

import pytest

from crossalign.datasets.class_lists import class_list
from crossalign.errors import InputError
from crossalign.text.descriptions import Descriptions, bundled_descriptions, bundled_names
from crossalign.text.descriptions.choosing import bundled_for, descriptions_for
from crossalign.text.names import normalise_name

DATASETS = [name for name in bundled_names() if name != "demo"]
TEMPLATES = ("a photo of a {}.", "the {}.")


@pytest.mark.parametrize("name", DATASETS)
def test_a_datasets_classes_get_its_descriptions(name):
    labels = [label.upper().replace(" ", "_") for label in class_list(name).names]
    assert bundled_for(labels) == name


def test_of_several_files_the_one_with_the_fewest_classes_is_taken():
    classes = {name: set(map(normalise_name, bundled_descriptions(name).classes)) for name in DATASETS}
    shared = sorted(classes["imagenet"] & classes["caltech101"])[:2]
    assert len(shared) == 2
    holding = [name for name in DATASETS if classes[name].issuperset(shared)]
    assert bundled_for(shared) == min(holding, key=lambda name: len(classes[name])) == "caltech101"
    only = sorted(classes["imagenet"].difference(*(classes[name] for name in DATASETS if name != "imagenet")))[0]
    assert bundled_for([shared[0], only]) == "imagenet"


@pytest.mark.parametrize(
    "labels",
    [
        ["Siamese", "beagle", "zeppelin pilot"],
        ["Siamese cat", "beagle of mine"],
        ["beagle", "Siamese", "siamese!"],  # Two labels that would have the same texts.
        ["beagle", "!!"],
        list(bundled_descriptions("demo").classes),  # They describe the demo's own photos.
        [],
    ],
)
def test_labels_that_no_file_has_all_of_get_templates(labels):
    assert bundled_for(labels) is None
    assert descriptions_for(labels, templates=TEMPLATES).source == "templates"


def test_nothing_given_takes_the_bundled_ones_and_none_takes_templates():
    labels = ["siamese", "Beagle"]
    assert descriptions_for(labels, templates=TEMPLATES) == bundled_descriptions("oxford_pet")
    templates = descriptions_for(labels, "none", templates=TEMPLATES)
    assert (templates.source, templates.style) == ("templates", "sentences")
    assert templates.classes == {
        "siamese": ("a photo of a siamese.", "the siamese."),
        "Beagle": ("a photo of a Beagle.", "the Beagle."),
    }
    assert descriptions_for(["{x}", "{}"], templates=("a {}.",)).classes == {"{x}": ("a {x}.",), "{}": ("a {}.",)}


def test_a_file_is_preferred_to_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("none", "oxford_pet"):
        assert descriptions_for(["cat", "dog"], name, templates=TEMPLATES).source in ("templates", "bundled:oxford_pet")
        (tmp_path / name).write_text(json.dumps({"cat": ["It meows."], "dog": ["It barks."]}))
        assert descriptions_for(["cat", "dog"], name, templates=TEMPLATES).source == name


def test_what_was_given_is_taken_as_it_is():
    loaded = Descriptions("own", "sentences", {"cat": ("A cat.",)})
    assert descriptions_for(["Siamese", "beagle"], loaded, templates=TEMPLATES) is loaded
    own = descriptions_for(["Siamese", "beagle"], {"Siamese": ("has points",), "beagle": ["has ears"]}, templates=TEMPLATES)
    assert (own.source, own.classes) == ("descriptions", {"Siamese": ("has points",), "beagle": ("has ears",)})
    assert descriptions_for(["a", "b"], "dtd", templates=TEMPLATES).source == "bundled:dtd"
    for given, reason in (({"cat": "has ears"}, "has for 'cat' something else"), ("none.json", "cannot be read")):
        with pytest.raises(InputError, match=reason):
            descriptions_for(["a", "b"], given, templates=TEMPLATES)
