"""WaffleCLIP's strings, to those that the released program made."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossalign.text import prompts
from crossalign.text.phrasing import descriptor_sentence
from crossalign.text.prompts import PromptInputs
from crossalign.text.waffle import Noise, characters_of, waffle_prompts, word_list

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "prompts" / "waffle.json").read_text(encoding="utf-8"))
DESCRIPTORS = ORACLE["inputs"]["descriptors"]
NAMES = tuple(DESCRIPTORS)
TEXTS = [text for texts in DESCRIPTORS.values() for text in texts]
NOISE = Noise.like(NAMES, ORACLE["inputs"]["word_list"], characters_of(TEXTS))
LENGTH = 5
"""Random descriptors per class in the program's modes of random descriptions."""


def photo(name, text):
    return descriptor_sentence(name, text, before="A photo of a ", end=".")


def released(mode):
    return list(ORACLE["outputs"][mode].values())


@pytest.mark.parametrize(("mode", "seed"), [("waffle/seed0", 0), ("waffle/seed1", 1), ("wca_construct_random/seed42", 42)])
def test_the_prompts_are_the_programs(mode, seed):
    assert waffle_prompts(NAMES, NOISE, np.random.RandomState(seed)) == released(mode)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_source_takes_words_and_characters_from_its_inputs(seed, monkeypatch):
    monkeypatch.setattr(prompts, "word_list", lambda: tuple(ORACLE["inputs"]["word_list"]))
    inputs = PromptInputs(NAMES, descriptors=list(DESCRIPTORS.values()), seed=seed)
    assert prompts.waffle(inputs) == released(f"waffle/seed{seed}")
    other = PromptInputs(("x",) * len(NAMES), descriptors=inputs.descriptors, seed=seed, descriptor_names=NAMES)
    assert prompts.waffle(other) == released(f"waffle/seed{seed}")


@pytest.mark.parametrize("seed", [0, 1])
def test_random_characters_alone(seed):
    generator = np.random.RandomState(seed)
    drawn = [[NOISE.random_characters(generator) for _ in range(15)] for _ in NAMES]
    chosen = drawn[generator.randint(len(NAMES))]
    assert [[photo(name, text) for text in chosen] for name in NAMES] == released(f"waffle_characters/seed{seed}")


@pytest.mark.parametrize("seed", [0, 1])
def test_random_characters_and_words_with_the_classes_own_descriptors(seed):
    generator = np.random.RandomState(seed)
    made = waffle_prompts(NAMES, NOISE, generator, pairs=10)
    for name, texts in zip(NAMES, made, strict=True):
        texts += [photo(name, generator.choice(DESCRIPTORS[name])) for _ in range(20)]
    taken = [[texts[i] for i in generator.permutation(len(texts))[:30]] for texts in made]
    assert taken == released(f"waffle_and_gpt/seed{seed}")


@pytest.mark.parametrize("seed", [0, 1])
def test_descriptors_in_the_programs_sentence(seed):
    assert [[photo(name, text) for text in DESCRIPTORS[name]] for name in NAMES] == released(f"gpt_descriptions/seed{seed}")
    generator = np.random.RandomState(seed)
    drawn = [generator.choice(TEXTS, LENGTH, replace=False) for _ in NAMES]
    assert [[photo(n, text) for text in texts] for n, texts in zip(NAMES, drawn, strict=True)] == released(
        f"random_descriptions/seed{seed}"
    )
    shared = np.random.RandomState(seed).choice(TEXTS, LENGTH, replace=False)
    assert [[photo(n, text) for text in shared] for n in NAMES] == released(f"shared_random_descriptions/seed{seed}")


def test_a_name_that_stands_in_the_random_part_stays_there():
    # The released program replaces the letter a of "A photo of a" too.
    inputs = PromptInputs(("a", "photo"), descriptors=[["aaa"], ["aaa"]])
    for name, texts in zip(inputs.names, prompts.waffle(inputs), strict=True):
        assert all(text.startswith(f"A photo of a {name}, which ") for text in texts)


def test_lengths_follow_the_names():
    noise = Noise.like(["great grey owl", "red fox", "Afghan_hound"], ["abcdefghij"], "xy")
    # Words of 5, 4, 3; 3, 3; and 6, 5 letters: means 4, 3 and 5.5, together 4.17; 3, 2 and 2 words.
    assert (noise.words, noise.word_count) == (("abcd",), 2)
    # 2, 1 and 0 spaces; longest words of 5, 3 and 12 characters: 7, and on to the next multiple of 2.
    assert (noise.groups, noise.group_length) == (2, 4)
    generator = np.random.RandomState(0)
    assert noise.random_words(generator) == "abcd abcd"
    assert [len(group) for group in noise.random_characters(generator).split(", ")] == [4, 4]


@given(st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, max_size=5), st.integers(0, 2**40))
def test_all_classes_have_the_same_30_descriptors(names, seed):
    inputs = PromptInputs(tuple(" ".join(name.split()) for name in names), sentences=[["xyz"]] * len(names), seed=seed)
    made = prompts.waffle(inputs)
    bare = [
        [text.removeprefix(f"A photo of a {name}, ") for text in texts]
        for name, texts in zip(inputs.names, made, strict=True)
    ]
    assert all(texts == bare[0] for texts in bare)
    assert len(bare[0]) == 30
    letters = "".join(text.removeprefix("which has ").rstrip(".") for text in bare[0][1::2])
    assert set(letters) <= set("xyz, ")


def test_without_descriptions_characters_are_those_of_the_words():
    (texts,) = prompts.waffle(PromptInputs(("red fox",)))
    assert all(text.isascii() for text in texts)
    assert characters_of(["a b, c.", "ba"]) == "abc"


def test_our_words_are_plain():
    words = word_list()
    assert len(words) == len(set(words)) > 1000
    assert list(words) == sorted(words)
    assert all(word.isalpha() and word.islower() and 4 <= len(word) <= 10 for word in words)
