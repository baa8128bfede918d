"""The bundled files keep their promises; files of others are read, matched, or refused in one sentence."""

import itertools
import json
import re
from collections import Counter, defaultdict
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import DATA
from crossalign.datasets.class_lists import class_list
from crossalign.datasets.configs import config_names, load_config
from crossalign.errors import InputError
from crossalign.text.descriptions import (
    Descriptions,
    bundled_descriptions,
    bundled_names,
    load_descriptions,
    normalise_name,
    parse_descriptions,
)

DATASETS = ["caltech101", "cub", "dtd", "eurosat", "flowers102", "food101", "imagenet", "oxford_pet", "places365"]
SIZES = [101, 200, 47, 10, 102, 101, 1000, 37, 365]


def raw(name):
    return json.loads((resources.files("crossalign.text.descriptions") / f"{name}.json").read_text(encoding="utf-8"))


def number_forms(name):
    """A normalised name, and what its last word may be in the plural, or in the singular if it is one."""
    endings = [("", "s"), ("", "es"), ("y", "ies"), ("f", "ves"), ("fe", "ves"), ("man", "men"), ("us", "i"), ("is", "es")]
    endings += [("mouse", "mice"), ("goose", "geese"), ("foot", "feet"), ("child", "children")]
    forms = {name}
    for one, many in endings:
        for old, new in ((one, many), (many, one)):
            if name.endswith(old) and len(name) > len(old):
                forms.add(name[: len(name) - len(old)] + new)
    return forms


def leaks(text, names):
    padded = f" {normalise_name(text)} "
    return any(f" {form} " in padded for name in names for form in number_forms(normalise_name(name)))


def test_nine_datasets_have_descriptions():
    assert [name for name in bundled_names() if name != "demo"] == DATASETS
    assert set(DATASETS) <= {load_config(name).descriptions for name in config_names()}


@pytest.mark.parametrize(("name", "size"), list(zip(DATASETS, SIZES, strict=True)))
def test_a_bundled_file_has_a_class_of_its_own_for_each_of_the_dataset(name, size):
    classes = class_list(name)
    bundled = bundled_descriptions(name)
    assert (bundled.source, bundled.style) == (f"bundled:{name}", "descriptors")
    assert len(bundled.classes) == len(classes.names) == size
    assert set(bundled.classes) == set(classes.names)
    assert bundled.match(classes.names) == [bundled.classes[label] for label in classes.names]
    assert bundled.match(classes.keys, [(label,) for label in classes.names]) == bundled.match(classes.names)


@pytest.mark.parametrize("name", DATASETS)
def test_a_bundled_file_says_where_it_comes_from(name):
    content = raw(name)
    assert content["schema"] == 1
    assert content["dataset"] == name
    assert content["style"] == "descriptors"
    assert "written for crossalign by a large language model" in content["author"]
    assert content["licence"]
    assert len(content["instruction"]) > 100
    year, month, day = content["date"].split("-")
    assert (len(year), len(month), len(day)) == (4, 2, 2)


@pytest.mark.parametrize("name", DATASETS)
def test_each_class_has_eight_or_more_different_descriptors_of_2_to_16_words(name):
    for label, texts in raw(name)["classes"].items():
        assert len(texts) >= 8, label
        assert len({normalise_name(text) for text in texts}) == len(texts), label
        assert all(2 <= len(text.split()) <= 16 for text in texts), label
        assert all(text == " ".join(text.split()) for text in texts), label


@pytest.mark.parametrize("name", DATASETS)
def test_no_descriptor_names_its_class(name):
    classes = class_list(name)
    content = raw(name)["classes"]
    for label, published in zip(classes.names, classes.published, strict=True):
        leaking = [text for text in content[label] if leaks(text, (label, published))]
        assert not leaking, label


def test_a_leak_would_be_found():
    assert leaks("a flock of gray wolves", ["Gray Wolf"])
    assert leaks("two Canterbury-bell flowers", ["canterbury bells"])
    assert leaks("a pug's nose beside pugs", ["pug"])
    assert leaks("many cherries", ["cherry"])
    assert not leaks("elbowed antennae", ["ant"])


@pytest.mark.parametrize("name", DATASETS)
def test_no_two_classes_share_most_of_their_descriptors(name):
    owners = defaultdict(set)
    content = raw(name)["classes"]
    for label, texts in content.items():
        for text in texts:
            owners[normalise_name(text)].add(label)
    shared = Counter(pair for labels in owners.values() for pair in itertools.combinations(sorted(labels), 2))
    for (first, second), count in shared.items():
        assert count <= min(len(content[first]), len(content[second])) / 2, (first, second)


def test_our_own_descriptors_follow_which_has():
    assert bundled_descriptions("oxford_pet").classes["Abyssinian"][0].startswith("has a warm ruddy")


def test_an_unknown_bundled_name_says_what_there_is():
    with pytest.raises(InputError, match=r"no descriptions 'pets' are bundled; bundled are caltech101, .*oxford_pet"):
        bundled_descriptions("pets")


def written(tmp_path, content):
    file = tmp_path / "file.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return file


CUPL = {
    "Abyssinian": ["An Abyssinian is a slender cat.", "A abyssinian has large ears.", "Its coat is ticked"],
    "American_Bulldog": ["American bulldogs are stocky."],
}
DCLIP = {
    "tench": ["a freshwater fish", "green or brown in color", "two fins on the back"],
    "Black-footed albatross": ["long, hooked beak", "Usually found at sea."],
}


def test_cupls_files_are_sentences_and_dclips_are_descriptors(tmp_path):
    cupl, dclip = load_descriptions(written(tmp_path, CUPL)), load_descriptions(str(written(tmp_path, DCLIP)))
    assert (cupl.style, dclip.style) == ("sentences", "descriptors")
    assert cupl.classes == {name: tuple(texts) for name, texts in CUPL.items()}
    assert dclip.classes == {name: tuple(texts) for name, texts in DCLIP.items()}
    assert dclip.source == str(tmp_path / "file.json")


def test_our_own_files_say_their_style(tmp_path):
    header = {"schema": 1, "classes": {"cat": ["A cat has whiskers."], "dog": ["a long nose"]}}
    sentences = load_descriptions(written(tmp_path, header | {"style": "sentences"}))
    assert (sentences.style, sentences.classes["cat"]) == ("sentences", ("A cat has whiskers.",))
    descriptors = load_descriptions(written(tmp_path, header | {"style": "descriptors"}))
    assert (descriptors.style, descriptors.classes["dog"]) == ("descriptors", ("has a long nose",))
    # Fragments have their own verb or article, as DCLIP's.
    fragments = load_descriptions(written(tmp_path, header | {"style": "fragments"}))
    assert (fragments.style, fragments.classes["dog"]) == ("descriptors", ("a long nose",))


def test_blank_texts_are_left_out_and_repeats_are_counted(tmp_path):
    file = load_descriptions(
        written(tmp_path, {"cat": ["  two   ears\n", "", "two ears", " ", "a tail"], "crêpe": ["thin"]})
    )
    assert file.classes == {"cat": ("  two   ears\n", "two ears", "a tail"), "crêpe": ("thin",)}
    assert file.tidy("descriptors", ["cat"]) == [("two ears", "two ears", "a tail")]


@pytest.mark.parametrize(
    ("filed", "asked"),
    [
        ("american_bulldog", "American Bulldog"),
        ("AMERICAN-BULLDOG", "american bulldog"),
        ("Black footed Albatross", "black-footed_albatross"),
        ("Brewer's Blackbird", "Brewers Blackbird"),
        ("Brewer’s blackbird", "brewer's_blackbird"),
        ("jack-o'-lantern", "jack o lantern"),
        ("arena/hockey", "arena hockey"),
        ("  Great   Pyrenees ", "great pyrenees"),
        ("crème brûlée", "Cre\u0300me Bru\u0302le\u0301e"),
        ("Straße", "strasse"),
    ],
)
def test_names_match_whatever_their_spelling(filed, asked):
    assert Descriptions("f", "descriptors", {filed: ("has a tail",)}).match([asked]) == [("has a tail",)]


def test_other_names_do_not_match():
    file = Descriptions("f", "descriptors", {"कि": ("first",), "C++": ("second",), "crepe": ("third",)})
    for name, hint in (("का", ""), ("crêpe", r" \(did you mean 'crepe'\?\)"), ("cre pe", r" \(did you mean 'crepe'\?\)")):
        with pytest.raises(InputError, match=f"no descriptions for 1 of 1 classes: {name}{hint};"):
            file.match([name])


def test_names_that_differ_in_signs_alone_keep_their_own():
    file = parse_descriptions({"C": ["a letter"], "C#": ["a hash"], "C++": ["two signs"]}, "f")
    assert file.match(["C++", "C", "C#"]) == [("two signs",), ("a letter",), ("a hash",)]


@given(st.text())
def test_normalising_twice_changes_nothing(name):
    once = normalise_name(name)
    assert normalise_name(once) == once


words = st.text("abcdefghijklmnopqrstuvwxyzäé0123456789", min_size=1, max_size=8)


@given(st.lists(words, min_size=1, max_size=4), st.data())
def test_case_and_separators_do_not_matter(parts, data):
    def spelled():
        separators = st.sampled_from([" ", "_", "-", "  ", " - ", "/"])
        cased = [data.draw(st.sampled_from([part, part.upper(), part.title()])) for part in parts]
        return "".join(part + data.draw(separators) for part in cased)

    assert normalise_name(spelled()) == normalise_name(spelled()) == " ".join(parts)


def test_aliases_are_tried_in_turn():
    file = Descriptions("f", "descriptors", {"n01": ("key",), "old name": ("old",), "name": ("own",), "empty": ()})
    assert file.match(["Name", "new", "empty"], [("n01",), ("OLD_NAME", "n01"), ("n01",)]) == [("own",), ("old",), ("key",)]


def test_every_unmatched_class_is_named(tmp_path):
    file = load_descriptions(written(tmp_path, {"cat": ["a tail"], "dog": [], "bus": ["wheels"]}))
    with pytest.raises(
        InputError, match=r"file\.json has no descriptions for 3 of 4 classes: dog, an owl, Train; rename"
    ) as e:
        file.match(["cat", "dog", "an owl", "Train"])
    way_out = "rename the classes, add them to the file, or allow missing ones (allow_missing, --allow-missing)"
    assert str(e.value).endswith(f"; {way_out}")
    assert "\n" not in str(e.value)


def test_a_missing_class_is_compared_with_the_unused_names():
    file = Descriptions("f", "descriptors", {"Siamese": ("a tail",), "pug": ("a curl",), "Sphynx": (), "beagle": ("ears",)})
    with pytest.raises(InputError, match=r"of 3 classes: Siamese cat \(did you mean 'Siamese'\?\), sphynx; rename"):
        file.match(["Siamese cat", "sphynx", "pug"])
    with pytest.raises(InputError, match="of 2 classes: Siamese cat; rename"):
        file.match(["Siamese cat", "siamese"])


def test_only_the_first_missing_classes_are_compared():
    file = Descriptions("f", "descriptors", {"beagle": ("ears",)})
    with pytest.raises(InputError) as error:
        file.match([f"beagle {number}" for number in range(7)])
    assert str(error.value).count("did you mean 'beagle'?") == 5
    assert "beagle 5, beagle 6; rename" in str(error.value)


def test_missing_classes_may_be_allowed():
    file = Descriptions("f", "descriptors", {"cat": ("a tail",)})
    with pytest.warns(UserWarning, match="f has no descriptions for 1 of 2 classes: dog; hand-written prompts stand"):
        assert file.match(["dog", "cat"], allow_missing=True) == [(), ("a tail",)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "are no JSON"),
        ("{'cat': []}", "are no JSON"),
        ('{"cat": ["a tail"]', "are no JSON"),
        ("[" * 100_000, "are no JSON"),
        (["cat"], "holds a list, not"),
        ("null", "holds a NoneType, not"),
        ('"cat"', "holds a str, not"),
        ({}, "names no classes"),
        ({"cat": "a tail"}, "has for 'cat' something else than a list of texts"),
        ({"dog": ["a nose"], "cat": ["a tail", 5]}, "has for 'cat' something else than a list of texts"),
        ({"cat": {"texts": ["a tail"]}}, "has for 'cat' something else than a list of texts"),
        ({"cat": None}, "has for 'cat' something else than a list of texts"),
        ({"schema": 2, "style": "descriptors", "classes": {"cat": ["a tail"]}}, "has schema 2, but this version reads 1"),
        ({"schema": 1, "style": "descriptors"}, "names no classes"),
        ({"schema": 1, "style": "descriptors", "classes": ["cat"]}, "names no classes"),
        ({"schema": 1, "style": "descriptors", "classes": {"cat": [None]}}, "has for 'cat' something else"),
        ({"schema": 1, "style": "verses", "classes": {"cat": ["a tail"]}}, "has style 'verses'"),
        ({"schema": 1, "classes": {"cat": ["a tail"]}}, "has style None"),
    ],
)
def test_a_malformed_file_says_why_in_one_sentence(tmp_path, content, reason):
    with pytest.raises(InputError, match=rf"file\.json.* {reason}") as caught:
        load_descriptions(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0")
    for name, reason in (("none.json", "cannot be read"), (".", "cannot be read"), ("picture.json", "are no JSON")):
        with pytest.raises(InputError, match=reason):
            load_descriptions(tmp_path / name)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["cupl", "dclip"])
def test_published_files_load_and_name_what_they_lack(kind):
    files = sorted((DATA / "descriptions" / kind).glob("*.json"))
    assert len(files) >= 6
    complete = 0
    for path in files:
        file = load_descriptions(path)
        assert file.style == {"cupl": "sentences", "dclip": "descriptors"}[kind], path
        classes = class_list(path.stem)
        try:
            assert all(file.match(classes.names, classes.aliases))
            complete += 1
        except InputError as error:
            named = re.sub(r" \(did you mean .*?\?\)", "", str(error).split("classes: ")[1].split("; rename")[0])
            with pytest.warns(UserWarning, match="no descriptions"):
                found = file.match(classes.names, classes.aliases, allow_missing=True)
            assert named == ", ".join(name for name, texts in zip(classes.names, found, strict=True) if not texts)
            assert sum(map(bool, found)) >= 0.75 * len(found), path
    assert complete >= 4
