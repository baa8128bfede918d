"""Prompts: class names, templates and descriptions become the sentences that are encoded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np

from crossalign.errors import InputError
from crossalign.text.descriptions import Descriptions
from crossalign.text.descriptions.style import predicate_of
from crossalign.text.names import rename, with_article
from crossalign.text.phrasing import clause, descriptor_sentence
from crossalign.text.waffle import Noise, characters_of, waffle_prompts, word_list

PHOTO = "a photo of a {}."
MOST_DESCRIPTIONS = 50
"""The most descriptions per class that AWT, ABS and CGBC use."""

ClassPrompts = list[list[str]]
"""The prompts of each class."""


@dataclass(frozen=True)
class PromptInputs:
    """What prompts are made from.

    Attributes:
        names: C class names.
        templates: hand-written prompts with {} for the name.
        domain: what kind of thing all classes are ("pet"), or empty.
        descriptors: for each class, fragments that go behind its name; None if there are none.
        sentences: for each class, full sentences about it; None if there are none.
        seed: of random descriptors, choices and shuffles.
        aliases: for each class its other names, which control prompts take out of sentences; or nothing.
        descriptor_names: the C names that stand before descriptors, where the authors' programs take another list there; or
            nothing.
        fallback: templates of the prompts that a class without descriptions gets.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = (PHOTO,)
    domain: str = ""
    descriptors: Sequence[Sequence[str]] | None = None
    sentences: Sequence[Sequence[str]] | None = None
    seed: int = 0
    aliases: Sequence[Sequence[str]] = ()
    descriptor_names: tuple[str, ...] = ()
    fallback: tuple[str, ...] = (PHOTO,)

    @property
    def names_before_descriptors(self) -> tuple[str, ...]:
        """The C class names in prompts with descriptors."""
        return self.descriptor_names or self.names


def prompt_inputs(
    names: Sequence[str],
    aliases: Sequence[Sequence[str]] = (),
    descriptions: Sequence[Descriptions] = (),
    *,
    templates: Sequence[str] = (PHOTO,),
    domain: str = "",
    seed: int = 0,
    allow_missing: bool = False,
    as_published: bool = False,
    descriptor_names: Sequence[str] = (),
) -> PromptInputs:
    """Match description files with classes; of two files of the same style the first is taken.

    Args:
        names: C class names.
        aliases: for each class other names that files may use, or nothing.
        descriptions: files.
        templates: hand-written prompts with {} for the name; "openai-imagenet" stands for CLIP's 80 for ImageNet.
        domain: what kind of thing all classes are, or empty.
        seed: of random descriptors, choices and shuffles.
        allow_missing: give a class without descriptions the prompts `PromptInputs.fallback`, instead of refusing it.
        as_published: take the descriptions as they stand, as the authors' programs do, instead of tidying them.
        descriptor_names: the names that stand before descriptors, if those are others.

    Raises:
        InputError: a file lacks a class.
    """
    if tuple(templates) == ("openai-imagenet",):
        templates = imagenet_templates()
    texts: dict[str, list[tuple[str, ...]]] = {}
    for file in descriptions:
        if (style := file.style_for(names, aliases)) in texts:
            continue
        if as_published:
            matched = file.match(names, aliases, allow_missing=allow_missing)
            texts[style] = [tuple(" ".join(text.split()) for text in of_class) for of_class in matched]
        else:
            texts[style] = file.tidy(style, names, aliases, allow_missing=allow_missing)
    return PromptInputs(
        tuple(names),
        tuple(templates),
        domain,
        texts.get("descriptors"),
        texts.get("sentences"),
        seed,
        aliases,
        tuple(descriptor_names),
    )


@lru_cache(maxsize=1)
def imagenet_templates() -> tuple[str, ...]:
    """Give CLIP's 80 templates for ImageNet."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def photo(inputs: PromptInputs) -> ClassPrompts:
    """One prompt per class: "a photo of a {name}." (CLIP; y_c0 in the paper)."""
    return [[PHOTO.format(name)] for name in inputs.names]


def templates(inputs: PromptInputs) -> ClassPrompts:
    """The dataset's hand-written templates (CLIP-E)."""
    return [[template.replace("{}", name) for template in inputs.templates] for name in inputs.names]


def many_templates(inputs: PromptInputs) -> ClassPrompts:
    """The dataset's hand-written templates, or CLIP's 80 for ImageNet where there is only one (AutoCLIP, CARPRT)."""
    many = inputs.templates if len(inputs.templates) > 1 else imagenet_templates()
    return [[template.replace("{}", name) for template in many] for name in inputs.names]


def descriptor_sentences(inputs: PromptInputs) -> ClassPrompts:
    """One sentence per descriptor, "{name}, which has ..." (CLIP-D; Menon and Vondrick, ICLR 2023).

    Without descriptors, what sentences say of their class stands behind its name.
    """
    named = replace(inputs, names=inputs.names_before_descriptors)
    if inputs.descriptors is not None:
        return _by_class(named, inputs.descriptors, lambda name, text: [descriptor_sentence(name, text)])

    def behind_name(name: str, sentence: str) -> list[str]:
        subjects = [name, f"{inputs.domain} {name}"] if inputs.domain else [name]
        descriptor = predicate_of(sentence, subjects)
        return [f"{name}: {sentence.rstrip('.')}" if descriptor is None else descriptor_sentence(name, descriptor)]

    return _by_class(named, inputs.sentences, behind_name)


def sentences(inputs: PromptInputs) -> ClassPrompts:
    """Full sentences (CuPL, Pratt et al., ICCV 2023; WCA): as given, else made of descriptors in several phrasings."""
    if inputs.sentences is not None:
        return _by_class(inputs, inputs.sentences, lambda _, text: [text])
    kind = f", a type of {inputs.domain}" if inputs.domain else ""

    def phrasings(name: str, text: str) -> list[str]:
        thing, said = with_article(name), clause(text).rstrip(" .")
        return [f"a photo of {thing}{kind}, {said}.", f"{thing}, {said}.", f"a close-up photo of {thing}, {said}."]

    return _by_class(inputs, inputs.descriptors, phrasings)


def template_and_sentences(inputs: PromptInputs) -> ClassPrompts:
    """The template sentence, then the same sentence before each of up to 50 descriptions (AWT, Zhu et al., NeurIPS 2024).

    The template is the dataset's first, or "a photo of a {name}." where its templates are CLIP's 80 for ImageNet. The
    descriptions are `sentences`.
    """
    template = PHOTO if inputs.templates == imagenet_templates() else inputs.templates[0]
    given = inputs.descriptors if inputs.sentences is None else inputs.sentences
    prompts = []
    for row, (name, texts) in enumerate(zip(inputs.names, sentences(inputs), strict=True)):
        opening = template.replace("{}", name.replace("_", " ")).rstrip(" .")
        described = texts[:MOST_DESCRIPTIONS] if given is not None and given[row] else []
        prompts.append([f"{opening}.", *(f"{opening}. {text}" for text in described)])
    return prompts


def first_sentences(inputs: PromptInputs) -> ClassPrompts:
    """The first 50 `sentences` of each class, equally many for all classes (ABS, Cai et al., ICML 2025).

    The released program asks for classes of equal number. A class with fewer sentences than the others repeats its own in
    order.
    """
    by_class = sentences(inputs)
    count = min(MOST_DESCRIPTIONS, max(map(len, by_class)))
    return [[texts[i % len(texts)] for i in range(count)] for texts in by_class]


def concepts(inputs: PromptInputs) -> ClassPrompts:
    """Up to 50 prompts "a photo of a {name} with {a} or {b} or {c}." per class (CGBC, CVPR 2026, arXiv 2603.07911).

    The released program chooses the threes by a determinantal point process over image features of the training set; here
    the choice is random by the seed, without repeats. A class with fewer than three descriptors takes all of them at once.
    Without descriptors, the first 50 `sentences` stand for the concepts.
    """
    if inputs.descriptors is None:
        return [texts[:MOST_DESCRIPTIONS] for texts in sentences(inputs)]
    prompts: ClassPrompts = []
    for row, (name, texts) in enumerate(zip(inputs.names, inputs.descriptors, strict=True)):
        things = list(dict.fromkeys(re.sub(r"^(?:which )?(?:has|have|is|are) ", "", text) for text in texts))
        chosen = _threes(things, _generator(inputs.seed, 0xC0CE, row))
        prompts.append([f"a photo of a {name} with {' or '.join(three)}." for three in chosen])
    return [prompts or fallback for prompts, fallback in zip(prompts, _fallback(inputs), strict=True)]


def waffle(inputs: PromptInputs) -> ClassPrompts:
    """Random words and random characters instead of descriptors, the same for all classes (WaffleCLIP).

    Words are those of the bundled descriptions. Characters are those of the descriptors, else of the sentences, else of the
    words.
    """
    names, words = inputs.names_before_descriptors, word_list()
    described = inputs.sentences if inputs.descriptors is None else inputs.descriptors
    texts = [text for of_class in described or () for text in of_class] or words
    noise = Noise.like(names, words, characters_of(texts))
    return waffle_prompts(names, noise, np.random.RandomState(inputs.seed % 2**32))


def random_words(inputs: PromptInputs) -> ClassPrompts:
    """Control: for each class as many sentences as `sentences` gives it, "A photo of a {name}, which has {two words}.".

    The words are random, and the same for all classes: a class with n sentences takes the first n pairs.
    """
    counts = [len(of_class) for of_class in sentences(inputs)]
    words, generator = word_list(), _generator(inputs.seed, 0x80D5)
    pairs = [" ".join(words[i] for i in generator.integers(len(words), size=2)) for _ in range(max(counts))]
    return [
        [f"A photo of a {name}, which has {pair}." for pair in pairs[:count]]
        for name, count in zip(inputs.names, counts, strict=True)
    ]


def shuffled(inputs: PromptInputs) -> ClassPrompts:
    """Control: each class gets the `sentences` of another class, in which its own name replaces that of the other.

    The classes are put in a random ring and each takes those of the next, so none keeps its own. A name is the class name
    or an alias as a word of its own, in any case and with spaces, hyphens or underscores between its parts, also with the
    ending of a plural; "a" or "an" before it is fixed. All other words stay, even if they hint at the other class.

    Raises:
        InputError: there is but one class.
    """
    if len(inputs.names) < 2:
        raise InputError(f"there is one class, {inputs.names[0]!r}, but shuffling descriptions takes two or more; add some")
    texts, others = sentences(inputs), _every_name(inputs)
    ring = _generator(inputs.seed, 0x5AFF1E).permutation(len(texts)).tolist()
    taken: ClassPrompts = [[] for _ in texts]
    for taker, giver in zip(ring, ring[1:] + ring[:1], strict=True):
        taken[taker] = [rename(text, others[giver], inputs.names[taker]) for text in texts[giver]]
    return taken


def nameless(inputs: PromptInputs) -> ClassPrompts:
    """Control: each class's `sentences` with "object" in the place of its name, located as in `shuffled`.

    Parts of a name of several words stay where they stand alone, and so do irregular plurals.
    """
    named = zip(sentences(inputs), _every_name(inputs), strict=True)
    return [[rename(text, names, "object") for text in texts] for texts, names in named]


def repeated_name(inputs: PromptInputs) -> ClassPrompts:
    """Control: "a photo of a {name}." as often as `sentences` gives the class a sentence."""
    return [prompt * len(texts) for prompt, texts in zip(photo(inputs), sentences(inputs), strict=True)]


def within_budget(by_class: ClassPrompts, budget: int, seed: int = 0) -> ClassPrompts:
    """Take at most `budget` prompts per class, chosen at random, in their order.

    A class's choice depends on the seed, its place and how many prompts it has; a smaller budget takes some of what a
    larger one takes. A class with fewer prompts keeps them all.

    Raises:
        InputError: the budget is below one.
    """
    if budget < 1:
        raise InputError(f"the budget is {budget} prompts per class, but a class needs at least one; take 1 or more")

    def chosen(row: int, count: int) -> list[int]:
        return sorted(_generator(seed, 0xB0D6E7, row).permutation(count)[:budget].tolist())

    return [[texts[i] for i in chosen(row, len(texts))] for row, texts in enumerate(by_class)]


SOURCES: dict[str, Callable[[PromptInputs], ClassPrompts]] = {
    "photo": photo,
    "templates": templates,
    "many-templates": many_templates,
    "descriptor_sentences": descriptor_sentences,
    "sentences": sentences,
    "template-and-sentences": template_and_sentences,
    "first-sentences": first_sentences,
    "concepts": concepts,
    "waffle": waffle,
    "random-words": random_words,
    "shuffled": shuffled,
    "nameless": nameless,
    "repeated-name": repeated_name,
}
CONTROLS = ("random-words", "shuffled", "nameless", "repeated-name")
"""Controls: they show how much of an accuracy comes from the content of the descriptions."""
NEED_DESCRIPTIONS = (
    "descriptor_sentences",
    "sentences",
    "template-and-sentences",
    "first-sentences",
    "concepts",
    *CONTROLS,
)


def _by_class(
    inputs: PromptInputs, texts: Sequence[Sequence[str]] | None, phrase: Callable[[str, str], list[str]]
) -> ClassPrompts:
    """Phrase every description of every class; a class without any gets the fallback."""
    if texts is None:
        raise InputError("prompts made of descriptions need descriptions of the classes; give some")
    phrased = (
        [prompt for text in of_class for prompt in phrase(name, text)]
        for name, of_class in zip(inputs.names, texts, strict=True)
    )
    return [prompts or fallback for prompts, fallback in zip(phrased, _fallback(inputs), strict=True)]


def _fallback(inputs: PromptInputs) -> ClassPrompts:
    """The prompts of classes without descriptions."""
    return [[template.replace("{}", name) for template in inputs.fallback] for name in inputs.names]


def _threes(things: Sequence[str], generator: np.random.Generator) -> list[tuple[str, ...]]:
    """Choose up to 50 triples of different concepts."""
    if len(things) <= 3:
        return [tuple(things)] if things else []
    if math.comb(len(things), 3) <= 10 * MOST_DESCRIPTIONS:
        every = list(combinations(things, 3))
        return [every[i] for i in generator.permutation(len(every))[:MOST_DESCRIPTIONS]]
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < MOST_DESCRIPTIONS:
        chosen.setdefault(tuple(sorted(generator.choice(len(things), 3, replace=False).tolist())))
    return [tuple(things[i] for i in three) for three in chosen]


def _every_name(inputs: PromptInputs) -> list[list[str]]:
    """The name and aliases of each class."""
    aliases = inputs.aliases or [()] * len(inputs.names)
    return [[name, *others] for name, others in zip(inputs.names, aliases, strict=True)]


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
