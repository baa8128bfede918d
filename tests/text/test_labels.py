"""Labels in every notation that people have, and names that are one."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossalign import Classifier
from crossalign.errors import InputError
from crossalign.text.labels import check_labels, joined_labels, read_labels_file, split_labels, without_numbers

THREE = ["cat", "dog", "cup of coffee"]


@pytest.mark.parametrize(
    "text",
    [
        "cat, dog, cup of coffee",
        "cat\ndog\ncup of coffee\n",
        "cat\r\ndog\r\n\r\ncup of coffee",
        '["cat", "dog", "cup of coffee"]',
        '[\n "cat",\n "dog",\n "cup of coffee"\n]\n',
        '"cat", "dog", "cup of coffee"',
        "'cat', 'dog', 'cup of coffee'",
        '"cat",\n"dog",\n"cup of coffee"',
        "cat,\ndog,\ncup of coffee,\n",
        "1. cat\n2. dog\n3. cup of coffee",
        "0 cat\n1 dog\n2 cup_of coffee".replace("_", " "),
        "0\tcat\n1\tdog\n2\tcup of coffee",
        "1,cat\n2,dog\n3,cup of coffee".replace(",", ", ", 0).replace(",", ") "),
        "(1) cat, (2) dog, (3) cup of coffee",
        "- cat\n- dog\n- cup of coffee",
        "* cat\n* dog\n* cup of coffee",
        "names:\n  0: cat\n  1: dog\n  2: cup of coffee",
        "1 001.cat\n2 002.dog\n3 003.cup_of_coffee",
    ],
)
def test_each_notation_gives_the_labels(text, tmp_path):
    assert split_labels(text) == THREE
    (tmp_path / "labels.txt").write_text(text)
    assert read_labels_file(tmp_path / "labels.txt") == THREE


def test_in_a_file_of_lines_commas_belong_to_labels(tmp_path):
    file = tmp_path / "labels.txt"
    for text, labels in (
        ("tench, Tinca tinca\ngoldfish\n", ["tench, Tinca tinca", "goldfish"]),
        ("cat, dog, cup of coffee\n", THREE),
        ('"tench, Tinca tinca"\n"goldfish"\n', ["tench, Tinca tinca", "goldfish"]),
    ):
        file.write_text(text)
        assert read_labels_file(file) == labels


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_be_of_windows(tmp_path, encoding):
    (tmp_path / "labels.txt").write_bytes("кошка\r\n猫\r\n".encode(encoding))
    assert read_labels_file(tmp_path / "labels.txt") == ["кошка", "猫"]


@pytest.mark.parametrize(
    "labels",
    [
        ["18 wheeler", "sedan"],
        ["18 wheeler", "4 door car"],
        ["1 euro", "2 euro"],
        ["1.5 litre bottle", "2.5 litre bottle"],
        ["7:30 train", "8:15 train"],
        ["(a) cat", "(b) dog"],
        ["C++", "C#"],
        ["3D printer", "2D plot"],
    ],
)
def test_numbers_and_signs_of_names_stay(labels):
    assert split_labels(", ".join(labels)) == labels
    assert split_labels("\n".join(labels)) == labels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["cat", "dog"', r"^X begins like JSON, but is none \(.*\); give a label per line, \"cat, dog\", or JSON"),
        ("['cat', 'dog']", "X begins like JSON, but is none"),
        ('{"cat": 0, "dog": 1}', "X is JSON, but an object; give a list of texts"),
        ("[1, 2]", "X is JSON, but a list of other things than texts"),
        ('[{"name": "cat"}]', "a list of other things"),
        ("names: ['cat', 'dog']", "half a bracket, as in a list of another notation"),
        ("('cat', 'dog')", "half a bracket"),
        ('names: ["cat", "dog"]', "cannot be split at its commas"),
        ("id,name\n1,cat\n2,dog", "X is a table with the columns id, name; give a label per line"),
        ('"cat"dog, fox', 'X cannot be split at its commas .*; write a label with quotes as "a ""b"" c"'),
    ],
)
def test_the_rest_is_refused_in_a_sentence(text, words):
    with pytest.raises(InputError, match=words):
        split_labels(text, "X")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\ndog")
    with pytest.raises(InputError, match=r"labels file '.*a\.txt' cannot be read \(it is no UTF-8 text\); give a text file"):
        read_labels_file(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"b\.txt' cannot be read \(No such file or directory\); give"):
        read_labels_file(tmp_path / "b.txt")


@settings(deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1), min_size=1))
def test_labels_that_are_written_are_read_again(labels):
    assert split_labels(joined_labels(labels)) == labels


def test_quotes_are_kept():
    labels = ['5" disc', '"quoted" word', "a, b", "[x]", "- dash", "1. one"]
    assert split_labels(joined_labels(labels)) == labels


@pytest.mark.parametrize(
    "twins",
    [
        ["Cat", "cat"],
        ["t-shirt", "T shirt"],
        ["t-shirt", "T_Shirt"],
        ["caf\u00e9", "cafe\u0301"],
        ["\uff43\uff41\uff54", "cat"],
        ["Straße", "STRASSE"],
        ["Wilson's warbler", "Wilsons warbler"],
    ],
)
def test_two_labels_of_one_name_are_refused(twins):
    with pytest.raises(InputError, match="are one name; leave one of each") as caught:
        check_labels(["dog", *twins])
    assert all(repr(twin) in str(caught.value) for twin in twins)


@pytest.mark.parametrize("labels", [["C", "C++", "C#"], ["crane (bird)", "crane (machine)"], ["A", "A-"], ["が", "か"]])
def test_names_that_differ_by_signs_are_allowed(labels):
    assert check_labels(labels) == labels


def test_accents_alone_are_warned_of():
    with pytest.warns(UserWarning, match="'pêche' and 'peche' differ in accents alone"):
        assert check_labels(["pêche", "peche"]) == ["pêche", "peche"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", 3], r"label number 2 is 3 \(int\), but must be text"),
        (["a", "\udcff"], "label number 2 .* is no valid text; give it as UTF-8"),
        ("cat", "labels is the text 'cat'"),
    ],
)
def test_what_is_no_label_is_named(labels, words):
    with pytest.raises(InputError, match=words):
        check_labels(labels)


def test_many_labels_are_checked_at_once():
    names = [f"label {number}" for number in range(20_000)]
    assert check_labels(names) == names
    with pytest.raises(InputError, match="'label 7' and 'Label-7' are one name"):
        check_labels([*names, "Label-7"])


def test_a_classifier_refuses_twins(builtin):
    with pytest.raises(InputError, match="'Cat' and 'cat' and 'CAT' are one name"):
        Classifier(["Cat", "cat", "CAT", "dog"], encoder=builtin, method="clip")


def test_numbers_before_names_are_told_from_numbers_of_names():
    assert without_numbers(["001.ak47", "003.backpack"]) == ["ak47", "backpack"]
    assert without_numbers(["01_cat", "02_dog"]) == ["cat", "dog"]
    assert without_numbers(["18_wheeler", "2_door"]) == ["18_wheeler", "2_door"]
    assert without_numbers(["1.cat", "1.dog"]) == ["1.cat", "1.dog"]


def test_labels_that_are_words_of_the_language_warn_of_nothing(builtin):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "encoder builtin:lite0 probably cannot recognise 4 of 4 labels")
        assert Classifier(["A", "I", "one", "it"], encoder=builtin, method="cupl").labels == ("A", "I", "one", "it")
