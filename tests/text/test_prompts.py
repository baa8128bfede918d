"""What is said about a class, word for word."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from crossalign.datasets.configs import load_config
from crossalign.errors import InputError
from crossalign.text import prompts
from crossalign.text.descriptions import Descriptions, bundled_descriptions
from crossalign.text.prompts import PromptInputs, prompt_inputs

FRAGMENTS = Descriptions("fragments.json", "descriptors", {"cat": ("has whiskers", "a small pet"), "owl": ("wings",)})
WHOLE = Descriptions("whole.json", "sentences", {"cat": ("A cat has whiskers.",), "owl": ("Owls fly.", "An owl can fly.")})
NAMES = ("cat", "owl")


def test_one_photo_prompt_a_class():
    assert prompts.photo(PromptInputs(("cat", "{x}"))) == [["a photo of a cat."], ["a photo of a {x}."]]


def test_templates_take_the_name():
    inputs = PromptInputs(("cat", "C{}++"), templates=("a photo of a {}.", "{}, a {}!"))
    assert prompts.templates(inputs) == [["a photo of a cat.", "cat, a cat!"], ["a photo of a C{}++.", "C{}++, a C{}++!"]]


def test_openai_imagenet_stands_for_80_templates():
    (of_cat,) = prompts.templates(prompt_inputs(["cat"], templates=["openai-imagenet"]))
    assert len(of_cat) == len(set(of_cat)) == 80
    assert all(len(re.findall(r"\bcat\b", prompt)) == 1 for prompt in of_cat)
    assert not any("{" in prompt for prompt in of_cat)
    assert {"a bad photo of a cat.", "itap of the cat.", "a photo of the small cat."} <= set(of_cat)
    assert load_config("imagenet").templates == ("openai-imagenet",)


@pytest.mark.parametrize(
    ("descriptor", "sentence"),
    [
        ("has a flat face", "owl, which has a flat face"),
        ("a bird of prey", "owl, which is a bird of prey"),
        ("an animal", "owl, which is an animal"),
        ("used as a symbol", "owl, which is used as a symbol"),
        ("is brown", "owl, which has is brown"),
        ("often sits upright", "owl, which often sits upright"),
        ("typically has tufts", "owl, which typically has tufts"),
        ("may be white", "owl, which may be white"),
        ("can turn its head", "owl, which can turn its head"),
        ("large eyes", "owl, which has large eyes"),
        ("adult plumage", "owl, which is adult plumage"),
        ("haste in its eyes", "owl, which haste in its eyes"),
        ("antlers", "owl, which is antlers"),
        ("A beak", "owl, which has A beak"),
        ("which are round", "owl, which are round"),
        ("", "owl, which has "),
    ],
)
def test_descriptors_follow_the_letters_of_clip_ds_program(descriptor, sentence):
    assert prompts.descriptor_sentences(PromptInputs(("owl",), descriptors=[[descriptor]])) == [[sentence]]


@pytest.mark.parametrize(
    ("name", "sentence", "descriptor"),
    [
        ("cat", "A cat has whiskers.", "cat, which has whiskers"),
        ("Abyssinian", "An abyssinian is a slender cat.", "Abyssinian, which is a slender cat"),
        ("cat", "The cat can be striped.", "cat, which can be striped"),
        ("cat", "The pet cat can be striped.", "cat: The pet cat can be striped"),
        ("cat", "Cats are furry.", "cat: Cats are furry"),
        ("cat", "There are whiskers on a cat.", "cat: There are whiskers on a cat"),
        ("cat", "A cathedral has a tower.", "cat: A cathedral has a tower"),
        ("C++ (language)", "The C++ (language) is printed.", "C++ (language), which is printed"),
    ],
)
def test_whole_sentences_go_through_clip_d(name, sentence, descriptor):
    assert prompts.descriptor_sentences(PromptInputs((name,), sentences=[[sentence]])) == [[descriptor]]


def test_the_domain_may_stand_before_the_name():
    inputs = PromptInputs(("cat",), domain="pet", sentences=[["The pet cat can be striped.", "A cat is small."]])
    assert prompts.descriptor_sentences(inputs) == [["cat, which can be striped", "cat, which is small"]]


def test_descriptors_become_several_sentences():
    inputs = PromptInputs(("cat", "owl"), domain="pet", descriptors=[["has whiskers"], ["a bird", "wings"]])
    of_cat, of_owl = prompts.sentences(inputs)
    assert "a photo of a cat, a type of pet, which has whiskers." in of_cat
    assert "a photo of an owl, a type of pet, which is a bird." in of_owl
    assert "a photo of an owl, a type of pet, which has wings." in of_owl
    assert len(of_cat) > 1
    assert len(of_owl) == 2 * len(of_cat) == len(set(of_owl))
    clauses = ("which is a bird", "which has wings")
    assert all("an owl" in sentence and any(clause in sentence for clause in clauses) for sentence in of_owl)


def test_without_a_domain_no_kind_is_named():
    (of_cat,) = prompts.sentences(PromptInputs(("cat",), descriptors=[["has whiskers"]]))
    assert "a photo of a cat, which has whiskers." in of_cat
    assert not any("type of" in sentence for sentence in of_cat)


def test_braces_are_words_like_others():
    inputs = PromptInputs(("{x}",), domain="{y}", descriptors=[["has {0} and {}"]])
    assert "a photo of a {x}, a type of {y}, which has {0} and {}." in prompts.sentences(inputs)[0]
    assert prompts.descriptor_sentences(inputs) == [["{x}, which has {0} and {}"]]
    assert prompts.waffle(inputs)[0][0].startswith("A photo of a {x}, which ")


def test_whole_sentences_stay_as_they_are():
    inputs = prompt_inputs(NAMES, descriptions=[WHOLE], domain="pet")
    assert prompts.sentences(inputs) == [["A cat has whiskers."], ["Owls fly.", "An owl can fly."]]


def test_each_method_takes_the_style_it_was_made_for():
    for files in ([FRAGMENTS, WHOLE], [WHOLE, FRAGMENTS]):
        inputs = prompt_inputs(NAMES, descriptions=files)
        assert prompts.sentences(inputs)[1] == ["Owls fly.", "An owl can fly."]
        assert prompts.descriptor_sentences(inputs) == [
            ["cat, which has whiskers", "cat, which is a small pet"],
            ["owl, which has wings"],
        ]


def test_of_two_files_of_one_style_the_first_is_taken():
    other = Descriptions("other.json", "descriptors", {"cat": ("has claws",), "owl": ("has claws",)})
    first = prompts.descriptor_sentences(prompt_inputs(NAMES, descriptions=[other, FRAGMENTS]))
    assert first == [["cat, which has claws"], ["owl, which has claws"]]


def test_aliases_find_descriptions():
    inputs = prompt_inputs(["house cat", "owl"], [["Cat"], ["n123"]], [FRAGMENTS])
    assert prompts.descriptor_sentences(inputs)[0][0] == "house cat, which has whiskers"


def test_a_class_without_descriptions_is_refused_or_has_its_prompt():
    names = ("cat", "bus")
    with pytest.raises(InputError, match=r"fragments\.json has no descriptions for 1 of 2 classes: bus;"):
        prompt_inputs(names, descriptions=[FRAGMENTS])
    for file in (FRAGMENTS, WHOLE):
        with pytest.warns(UserWarning, match="bus; hand-written prompts"):
            inputs = prompt_inputs(names, descriptions=[file], allow_missing=True)
        for source in (prompts.descriptor_sentences, prompts.sentences):
            assert source(inputs)[1] == ["a photo of a bus."]
            assert "a photo of a cat." not in source(inputs)[0]
            other = dataclasses.replace(inputs, fallback=("a {}.", "the {}."))
            assert source(other) == [source(inputs)[0], ["a bus.", "the bus."]]


@pytest.mark.parametrize("source", prompts.NEED_DESCRIPTIONS)
def test_no_descriptions_at_all_are_refused(source):
    with pytest.raises(InputError, match="need descriptions of the classes; give some"):
        prompts.SOURCES[source](prompt_inputs(NAMES))


@pytest.mark.parametrize(
    "name", ["oxford_pet", "dtd", "food101", "flowers102", "cub", "eurosat", "caltech101", "places365", "imagenet"]
)
def test_bundled_descriptions_make_prompts_with_no_file_given(name):
    config = load_config(name)
    bundled = bundled_descriptions(config.descriptions)
    inputs = prompt_inputs(tuple(bundled.classes), descriptions=[bundled], domain=config.domain)
    for label, plain, rich in zip(
        inputs.names, prompts.descriptor_sentences(inputs), prompts.sentences(inputs), strict=True
    ):
        assert len(plain) >= 8
        assert len(set(rich)) > len(set(plain)) == len(plain)
        assert all(prompt.startswith(f"{label}, which has ") for prompt in plain)
        assert all(f"{label}, " in prompt for prompt in rich)
    kind = f", a type of {config.domain}, which has "
    assert not config.domain or any(kind in prompt for prompt in prompts.sentences(inputs)[0])


def noises(of_class, name):
    lead = f"A photo of a {name}, which has "
    assert all(prompt.startswith(lead) and prompt.endswith(".") for prompt in of_class)
    return [prompt.removeprefix(lead).removesuffix(".") for prompt in of_class]


def test_waffle_is_the_same_in_another_process():
    program = (
        "import json; from crossalign.text import prompts;"
        "print(json.dumps(prompts.waffle(prompts.PromptInputs(('cat', 'owl'), seed=5))))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    here = prompts.waffle(PromptInputs(NAMES, seed=5))
    assert json.loads(done.stdout) == here != prompts.waffle(PromptInputs(NAMES, seed=6))


def counts(by_class):
    return [len(of_class) for of_class in by_class]


BIRDS = PromptInputs(
    ("great grey owl", "cat", "C++"),
    sentences=[
        ["A Great Grey Owl can fly.", "Great grey owls fly. An owl is a bird.", "the strix-nebulosa of the north"],
        ["A category, not a cat."],
        ["The C++ is printed, not C.", "Letters."],
    ],
    aliases=[["strix_nebulosa", "owl"], [], ["n1"]],
    seed=3,
)


def test_nameless_prompts_name_no_class():
    assert prompts.nameless(BIRDS) == [
        ["An object can fly.", "Objects fly. An object is a bird.", "the object of the north"],
        ["A category, not an object."],
        ["The object is printed, not C.", "Letters."],
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("puppy", "Puppies and a puppy", "Objects and an object"),
        ("bus", "buses; a minibus", "objects; a minibus"),
        ("owl", "an owl-like bird; the owl's beak", "an object-like bird; the object's beak"),
        ("a.b", "axb and a.b", "axb and object"),
        ("t-shirt", "a T Shirt, a t_shirt, tshirt", "an object, an object, tshirt"),
    ],
)
def test_a_name_is_a_word_of_its_own(name, text, expected):
    assert prompts.nameless(PromptInputs((name,), sentences=[[text]])) == [[expected]]


@pytest.mark.parametrize("name", ["oxford_pet", "food101", "cub", "imagenet"])
def test_no_bundled_description_keeps_its_name(name):
    bundled = bundled_descriptions(load_config(name).descriptions)
    inputs = prompt_inputs(tuple(bundled.classes)[:120], descriptions=[bundled])
    for label, texts in zip(inputs.names, prompts.nameless(inputs), strict=True):
        assert not any(re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.IGNORECASE) for text in texts)


def test_shuffled_gives_each_class_anothers_descriptions_under_its_own_name():
    found = prompts.shuffled(BIRDS)
    assert sorted(counts(found)) == [1, 2, 3]
    assert all(count != own for count, own in zip(counts(found), (3, 1, 2), strict=True))
    for name, texts in zip(BIRDS.names, found, strict=True):
        if len(texts) == 3:
            article = "A"
            plural = name[0].upper() + name[1:] + "s"
            assert texts == [
                f"{article} {name} can fly.",
                f"{plural} fly. A {name} is a bird.",
                f"the {name} of the north",
            ]
        elif len(texts) == 1:
            assert texts == [f"A category, not a {name}."]
        else:
            assert texts == [f"The {name} is printed, not C.", "Letters."]


@pytest.mark.parametrize("classes", [2, 3, 10, 57])
def test_no_class_keeps_its_own_descriptions(classes):
    names = tuple(f"thing{i}" for i in range(classes))
    texts = [[f"mark {i}"] for i in range(classes)]
    orders = set()
    for seed in range(12):
        found = prompts.shuffled(PromptInputs(names, sentences=texts, seed=seed))
        assert sorted(found) == sorted(texts)
        assert all(mine != own for mine, own in zip(found, texts, strict=True))
        orders.add(str(found))
    assert len(orders) > 1 or classes == 2


def test_one_class_cannot_be_shuffled():
    with pytest.raises(InputError, match="there is one class, 'cat', but shuffling descriptions takes two"):
        prompts.shuffled(PromptInputs(("cat",), sentences=[["fur"]]))


def test_random_words_are_as_many_as_the_descriptions():
    found = prompts.random_words(BIRDS)
    assert counts(found) == [3, 1, 2]
    every = [noises(texts, name) for name, texts in zip(BIRDS.names, found, strict=True)]
    assert every[1] == every[0][:1]
    assert every[2] == every[0][:2]
    assert all(re.fullmatch(r"[a-z]+ [a-z]+", noise) for noise in every[0])


def test_repeated_names_are_as_many_as_the_descriptions():
    assert prompts.repeated_name(BIRDS)[2] == ["a photo of a C++."] * 2
    assert counts(prompts.repeated_name(BIRDS)) == [3, 1, 2]


@pytest.mark.parametrize("source", prompts.CONTROLS)
def test_controls_depend_on_the_seed_alone(source):
    inputs = PromptInputs(tuple(f"thing{i}" for i in range(9)), sentences=[[f"mark {i}"] for i in range(9)], seed=1)
    control = prompts.SOURCES[source]
    assert control(inputs) == control(inputs)
    other = control(dataclasses.replace(inputs, seed=2))
    assert (other == control(inputs)) == (source in ("nameless", "repeated-name"))


def test_a_class_without_descriptions_has_controls():
    with pytest.warns(UserWarning, match="bus; hand-written prompts"):
        inputs = prompt_inputs(("cat", "bus"), [["feline"], ["coach"]], descriptions=[WHOLE], allow_missing=True)
    assert inputs.aliases == [["feline"], ["coach"]]
    assert prompts.nameless(inputs)[1] == ["a photo of an object."]
    assert counts(prompts.random_words(inputs)) == [1, 1]


def test_a_budget_keeps_some_in_their_order():
    every = [[f"{label} {i}" for i in range(count)] for label, count in (("a", 20), ("b", 3), ("c", 20))]
    cut = prompts.within_budget(every, 5, seed=4)
    assert counts(cut) == [5, 3, 5]
    assert cut[1] == every[1]
    for texts, whole in zip(cut, every, strict=True):
        assert texts == [text for text in whole if text in texts]
    assert [text[2:] for text in cut[0]] != [text[2:] for text in cut[2]]
    assert cut == prompts.within_budget(every, 5, seed=4) != prompts.within_budget(every, 5, seed=5)
    smaller = prompts.within_budget(every, 2, seed=4)
    assert all(set(few) <= set(more) for few, more in zip(smaller, cut, strict=True))
    assert prompts.within_budget(every, 99) == every


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(InputError, match="the budget is 0 prompts per class"):
        prompts.within_budget([["a"]], 0)


# Sources of other programs


def test_many_templates_are_the_datasets_or_clips_80():
    two = PromptInputs(NAMES, templates=("a {}.", "the {}."))
    assert prompts.many_templates(two) == [["a cat.", "the cat."], ["a owl.", "the owl."]]
    of_cat, of_owl = prompts.many_templates(PromptInputs(NAMES, templates=("a {}.",)))
    assert len(of_cat) == len(set(of_cat)) == len(of_owl) == 80
    assert of_cat == prompts.templates(prompt_inputs(["cat"], templates=["openai-imagenet"]))[0]


def test_template_and_sentences_begin_with_the_first_template():
    inputs = prompt_inputs(NAMES, descriptions=[WHOLE], templates=("a photo of a {}, a type of pet.", "the {}."))
    assert prompts.template_and_sentences(inputs) == [
        ["a photo of a cat, a type of pet.", "a photo of a cat, a type of pet. A cat has whiskers."],
        ["a photo of a owl, a type of pet."] + [f"a photo of a owl, a type of pet. {t}" for t in WHOLE.classes["owl"]],
    ]
    imagenet = prompt_inputs(["cat_fish"], [["cat"]], descriptions=[WHOLE], templates=["openai-imagenet"])
    assert prompts.template_and_sentences(imagenet)[0][0] == "a photo of a cat fish."
    many = PromptInputs(("cat",), sentences=[[f"A cat {i}." for i in range(60)]])
    assert prompts.template_and_sentences(many)[0][-1] == "a photo of a cat. A cat 49."
    assert len(prompts.template_and_sentences(many)[0]) == 51
    made = prompts.template_and_sentences(PromptInputs(("cat",), descriptors=[["whiskers"]]))
    assert made[0][:2] == ["a photo of a cat.", "a photo of a cat. a photo of a cat, which has whiskers."]
    assert prompts.template_and_sentences(PromptInputs(("cat", "owl"), sentences=[[], ["Owls fly."]]))[0] == [
        "a photo of a cat."
    ]


def test_first_sentences_are_equally_many():
    inputs = PromptInputs(("a", "b", "c"), sentences=[[f"{i}" for i in range(70)], ["x", "y"], []])
    first, second, third = prompts.first_sentences(inputs)
    assert first == [str(i) for i in range(50)]
    assert second == ["x", "y"] * 25
    assert third == ["a photo of a c."] * 50
    assert prompts.first_sentences(PromptInputs(("a", "b"), sentences=[["1", "2", "3"], ["x", "y"]])) == [
        ["1", "2", "3"],
        ["x", "y", "x"],
    ]


def test_concepts_are_threes_of_descriptors():
    five = PromptInputs(("cat",), descriptors=[["has fur", "paws", "which are ears", "paws", "is a tail", "an eye"]], seed=3)
    (made,) = prompts.concepts(five)
    assert len(made) == len(set(made)) == 10
    for prompt in made:
        things = prompt.removeprefix("a photo of a cat with ").removesuffix(".").split(" or ")
        assert len(set(things)) == 3
        assert set(things) <= {"fur", "paws", "ears", "a tail", "an eye"}
    for count in (10, 40):
        many = PromptInputs(("cat", "owl"), descriptors=[[f"thing {i}" for i in range(count)]] * 2, seed=3)
        of_cat, of_owl = prompts.concepts(many)
        assert len(of_cat) == len(set(of_cat)) == len(of_owl) == 50
        assert len({frozenset(re.findall(r"thing \d+", prompt)) for prompt in of_cat}) == 50
        assert [p.replace("cat", "owl") for p in of_cat] != of_owl
        assert prompts.concepts(many)[0] == of_cat != prompts.concepts(dataclasses.replace(many, seed=4))[0]
    few = PromptInputs(("cat", "owl", "bus"), descriptors=[["fur", "paws"], ["wings"], []])
    assert prompts.concepts(few) == [
        ["a photo of a cat with fur or paws."],
        ["a photo of a owl with wings."],
        ["a photo of a bus."],
    ]
    assert prompts.concepts(prompt_inputs(NAMES, descriptions=[WHOLE])) == [list(texts) for texts in WHOLE.classes.values()]


def test_other_names_stand_before_descriptors():
    inputs = PromptInputs(("tights",), descriptors=[["tight"]], sentences=[["Tights."]], descriptor_names=("maillot",))
    assert prompts.descriptor_sentences(inputs) == [["maillot, which has tight"]]
    assert prompts.waffle(inputs)[0][0].startswith("A photo of a maillot, which ")
    assert prompts.photo(inputs) == [["a photo of a tights."]]


def test_a_second_file_of_a_style_may_lack_classes():
    lacking = Descriptions("other.json", "sentences", {"cat": ("A cat.",)})
    assert prompt_inputs(NAMES, descriptions=[WHOLE, lacking]).sentences == list(WHOLE.classes.values())
    with pytest.raises(InputError, match=r"other\.json has no descriptions for 1 of 2 classes: owl"):
        prompt_inputs(NAMES, descriptions=[lacking, WHOLE])
