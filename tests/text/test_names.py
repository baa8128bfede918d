"""Class names are found in files and in texts, and replaced there."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossalign.text.names import match_names, mentions, nearest_name, normalise_name, rename, with_article


def test_a_name_that_fewest_classes_go_by_is_preferred():
    names, aliases = ["missile", "missile", "sunglasses"], [["n1"], ["n2", "projectile"], ["n3"]]
    assert match_names(["missile", "projectile"], names, aliases) == ["missile", "projectile", None]
    assert match_names(["projectile", "missile"], names, aliases) == ["missile", "projectile", None]
    assert match_names(["missile"], names, aliases) == ["missile", "missile", None]


def test_names_that_two_lists_swap_are_told_apart_by_what_the_file_has():
    names, aliases = ["passage", "arcade"], [["arcade"], ["game hall"]]
    assert match_names(["arcade", "game hall"], names, aliases) == ["arcade", "game hall"]
    assert match_names(["passage", "arcade"], names, aliases) == ["passage", "arcade"]


def test_of_names_as_common_the_first_is_taken():
    assert match_names(["second", "first"], ["first"], [["second"]]) == ["first"]
    assert match_names(["second", "other"], ["first"], [["second"]]) == ["second"]


def test_signs_tell_entries_apart_that_differ_in_nothing_else():
    assert match_names(["C", "C#", "C++"], ["c++", "C", "c#"]) == ["C++", "C", "C#"]
    assert match_names(["+", "-"], ["-", "+"]) == ["-", "+"]
    assert match_names(["tabby-cat"], ["Tabby_Cat"]) == ["tabby-cat"]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True), st.randoms())
def test_every_name_finds_itself_in_any_order(names, random):
    entries = random.sample(names, len(names))
    assert match_names(entries, names) == names


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("Red foxes are small.", ["red fox"], True),
        ("A Red-Fox runs.", ["red fox"], True),
        ("Two puppies play.", ["puppy"], True),
        ("A fox is red.", ["red fox"], False),
        ("A category of its own.", ["cat"], False),
        ("A crane stands in water.", ["crane (bird)"], True),
        ("A C++ logo.", ["C++"], True),
        ("a +++ mark", ["+++"], True),
        ("这是一只猫。", ["猫"], True),
        ("这是一只狗。", ["猫"], False),
        ("Une crêpe-mince.", ["Crêpe mince"], True),
        ("A lake at dusk.", ["lake or sea", "lake"], True),
        ("It is a seabird.", ["laysan albatross"], False),
        ("Anything.", [], False),
        ("Anything.", [" "], False),
    ],
)
def test_a_text_mentions_a_class_by_any_of_its_names(text, names, found):
    assert mentions(text, names) is found


@given(st.text(), st.lists(st.text("abc _-", min_size=1), max_size=3))
def test_a_name_is_mentioned_where_it_stands_alone(text, names):
    # A single letter is looked for more strictly, as is a common word.
    spelled = [name for name in names if len(normalise_name(name)) > 1]
    assert all(mentions(f"{text} ({name}).", names) for name in spelled)


@pytest.mark.parametrize(
    ("name", "article"),
    [
        ("unicycle", "a"),
        ("European fire salamander", "a"),
        ("one-piece swimsuit", "a"),
        ("euphonium", "a"),
        ("ewer", "a"),
        ("utility room", "a"),
        ("ukulele", "a"),
        ("uniform", "a"),
        ("U-boat", "a"),
        ("USB stick", "a"),
        ("C++", "a"),
        ("house", "a"),
        ("Honolulu street", "a"),
        ("umbrella", "an"),
        ("upright piano", "an"),
        ("urban canal", "an"),
        ("underpass", "an"),
        ("unimproved road", "an"),
        ("hourglass", "an"),
        ("honest sign", "an"),
        ("SUV", "an"),
        ("X-ray", "an"),
        ("ATM", "an"),
        ("NASA logo", "a"),
        ("oboe", "an"),
        ("only child", "an"),
        ("Abyssinian", "an"),
    ],
)
def test_the_article_follows_the_sound(name, article):
    assert with_article(name) == f"{article} {name}"


def test_a_new_name_takes_its_article():
    assert rename("An umbrella and umbrellas", ["umbrella"], "unicycle") == "A unicycle and unicycles"
    assert rename("a unicycle", ["unicycle"], "umbrella") == "an umbrella"
    assert rename("nothing of it", ["cat"], "dog") == "nothing of it"
    assert rename("as it stands", ["", " ", "-"], "dog") == "as it stands"


@given(st.text("abc _-.C", min_size=1).filter(lambda name: re.search(r"[^\s_-]", name)), st.text("xyz .,"))
def test_a_name_is_gone_once_renamed(name, text):
    renamed = rename(f"{text} {name.strip(' _-')} {text}", [name], "object")
    assert "object" in renamed
    assert renamed.replace("object", "").strip(" xyz.,") == ""


@pytest.mark.parametrize(
    ("name", "entries", "nearest"),
    [
        ("Siamese cat", ["Sphynx", "Siamese"], "Siamese"),
        ("siamese", ["Siamese_cat", "Sphynx"], "Siamese_cat"),
        ("beagel", ["pug", "Beagle"], "Beagle"),
        ("cat, Siamese", ["Siamese Cat"], "Siamese Cat"),
        ("red fox", ["fox", "red fox kit", "foxhound"], "red fox kit"),
        ("beagle", ["eagle owl", "pug"], None),
        ("zebra", ["pug"], None),
        ("!!", ["pug", "??"], None),
        ("pug", [], None),
    ],
)
def test_a_near_name_is_found(name, entries, nearest):
    assert nearest_name(name, entries) == nearest
