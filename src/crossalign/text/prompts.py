"""What to say about a class: class names, templates and descriptions become the sentences that the encoder reads."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from crossalign.errors import InputError
from crossalign.text.descriptions import Descriptions

PHOTO = "a photo of a {}."
WAFFLE_EACH = 15
"""Random-word and random-character descriptors each, as many as WaffleCLIP takes (Roth et al., ICCV 2023)."""

ClassPrompts = list[list[str]]
"""For each class its prompts."""


@dataclass(frozen=True)
class PromptInputs:
    """All that prompts are made of.

    Attributes:
        names: C class names.
        templates: hand-written prompts with {} for the name.
        domain: what kind of thing all classes are ("pet"), or empty.
        descriptors: for each class, fragments that go behind its name; None if there are none.
        sentences: for each class, whole sentences about it; None if there are none.
        seed: of random descriptors and shuffles.
        aliases: for each class other names of it, which control prompts take out of sentences; or nothing.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = (PHOTO,)
    domain: str = ""
    descriptors: Sequence[Sequence[str]] | None = None
    sentences: Sequence[Sequence[str]] | None = None
    seed: int = 0
    aliases: Sequence[Sequence[str]] = ()


def prompt_inputs(
    names: Sequence[str],
    aliases: Sequence[Sequence[str]] = (),
    descriptions: Sequence[Descriptions] = (),
    *,
    templates: Sequence[str] = (PHOTO,),
    domain: str = "",
    seed: int = 0,
    allow_missing: bool = False,
) -> PromptInputs:
    """Match description files with classes; of two files of the same style the first is taken.

    Args:
        names: C class names.
        aliases: for each class other names that files may use, or nothing.
        descriptions: files.
        templates: hand-written prompts with {} for the name; "openai-imagenet" stands for CLIP's 80 for ImageNet.
        domain: what kind of thing all classes are, or empty.
        seed: of random descriptors.
        allow_missing: let the prompt stand for a class without descriptions, instead of refusing it.

    Raises:
        InputError: a file lacks a class.
    """
    if tuple(templates) == ("openai-imagenet",):
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

        templates = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    by_style = {d.style: d.match(names, aliases, allow_missing=allow_missing) for d in reversed(descriptions)}
    texts = by_style.get("descriptors"), by_style.get("sentences")
    return PromptInputs(tuple(names), tuple(templates), domain, *texts, seed, aliases)


def photo(inputs: PromptInputs) -> ClassPrompts:
    """One prompt a class: "a photo of a {name}." (CLIP; y_c0 in the paper)."""
    return [[PHOTO.format(name)] for name in inputs.names]


def templates(inputs: PromptInputs) -> ClassPrompts:
    """The dataset's hand-written templates (CLIP-E)."""
    return [[template.replace("{}", name) for template in inputs.templates] for name in inputs.names]


def descriptor_sentences(inputs: PromptInputs) -> ClassPrompts:
    """One sentence a descriptor, "{name}, which has ..." (CLIP-D; Menon and Vondrick, ICLR 2023)."""
    if inputs.descriptors is not None:
        return _by_class(inputs, inputs.descriptors, lambda name, text: [f"{name}, {_clause(text)}"])
    return _by_class(inputs, inputs.sentences, lambda name, text: [_as_descriptor(name, text)])


def sentences(inputs: PromptInputs) -> ClassPrompts:
    """Whole sentences (CuPL, Pratt et al., ICCV 2023; WCA): as given, else made of descriptors in several phrasings."""
    if inputs.sentences is not None:
        return _by_class(inputs, inputs.sentences, lambda _, text: [text])
    kind = f", a type of {inputs.domain}" if inputs.domain else ""

    def phrasings(name: str, text: str) -> list[str]:
        thing, clause = _with_article(name), _clause(text)
        return [f"a photo of {thing}{kind}, {clause}.", f"{thing}, {clause}.", f"a close-up photo of {thing}, {clause}."]

    return _by_class(inputs, inputs.descriptors, phrasings)


def waffle(inputs: PromptInputs) -> ClassPrompts:
    """Random words and random characters instead of descriptors, the same for all classes (WaffleCLIP)."""
    generator = _generator(inputs.seed, 0x3AFF1E)
    words = _words()
    noises = []
    for _ in range(WAFFLE_EACH):
        pair = [words[i] for i in generator.integers(len(words), size=2)]
        # Characters come in groups as long as the words, so that only their meaning is lost.
        letters = ["".join(generator.choice(list(string.ascii_letters), size=len(word))) for word in pair]
        noises += [" ".join(pair), " ".join(letters)]
    return [[f"A photo of a {name}, which has {noise}." for noise in noises] for name in inputs.names]


def random_words(inputs: PromptInputs) -> ClassPrompts:
    """Control: for each class as many sentences as `sentences` gives it, "A photo of a {name}, which has {two words}.".

    The words are random, and the same for all classes: a class with n sentences takes the first n pairs.
    """
    counts = [len(of_class) for of_class in sentences(inputs)]
    words, generator = _words(), _generator(inputs.seed, 0x80D5)
    pairs = [" ".join(words[i] for i in generator.integers(len(words), size=2)) for _ in range(max(counts))]
    return [
        [f"A photo of a {name}, which has {pair}." for pair in pairs[:count]]
        for name, count in zip(inputs.names, counts, strict=True)
    ]


def shuffled(inputs: PromptInputs) -> ClassPrompts:
    """Control: each class takes the `sentences` of another one, with its own name put where they name the other.

    The classes are put in a random ring and each takes those of the next, so none keeps its own. A name is the class name
    or an alias as a word of its own, in any case and with spaces, hyphens or underscores between its parts, also with the
    ending of a plural; "a" or "an" before it is mended. All other words stay, even if they hint at the other class.

    Raises:
        InputError: there is but one class.
    """
    if len(inputs.names) < 2:
        raise InputError(f"there is one class, {inputs.names[0]!r}, but shuffling descriptions takes two or more; add some")
    texts, others = sentences(inputs), _all_names(inputs)
    ring = _generator(inputs.seed, 0x5AFF1E).permutation(len(texts)).tolist()
    taken: ClassPrompts = [[] for _ in texts]
    for taker, giver in zip(ring, ring[1:] + ring[:1], strict=True):
        taken[taker] = [_renamed(text, others[giver], inputs.names[taker]) for text in texts[giver]]
    return taken


def nameless(inputs: PromptInputs) -> ClassPrompts:
    """Control: each class's `sentences` with "object" in the place of its name, which is found as `shuffled` finds it.

    Parts of a name of several words stay where they stand alone, and so do irregular plurals.
    """
    named = zip(sentences(inputs), _all_names(inputs), strict=True)
    return [[_renamed(text, names, "object") for text in texts] for texts, names in named]


def repeated_name(inputs: PromptInputs) -> ClassPrompts:
    """Control: "a photo of a {name}." as often as `sentences` gives the class a sentence."""
    return [prompt * len(texts) for prompt, texts in zip(photo(inputs), sentences(inputs), strict=True)]


def within_budget(by_class: ClassPrompts, budget: int, seed: int = 0) -> ClassPrompts:
    """Keep at most `budget` prompts a class, chosen at random, in their order.

    A class's choice depends on the seed, its place and how many prompts it has; a smaller budget keeps some of what a larger
    one keeps. A class with fewer prompts keeps them all.

    Raises:
        InputError: the budget is below one.
    """
    if budget < 1:
        raise InputError(f"the budget is {budget} prompts a class, but a class needs at least one; take 1 or more")

    def chosen(row: int, count: int) -> list[int]:
        return sorted(_generator(seed, 0xB0D6E7, row).permutation(count)[:budget].tolist())

    return [[texts[i] for i in chosen(row, len(texts))] for row, texts in enumerate(by_class)]


SOURCES: dict[str, Callable[[PromptInputs], ClassPrompts]] = {
    "photo": photo,
    "templates": templates,
    "descriptor_sentences": descriptor_sentences,
    "sentences": sentences,
    "waffle": waffle,
    "random-words": random_words,
    "shuffled": shuffled,
    "nameless": nameless,
    "repeated-name": repeated_name,
}
CONTROLS = ("random-words", "shuffled", "nameless", "repeated-name")
"""Sources that say how much of a result comes from what descriptions say."""
NEED_DESCRIPTIONS = ("descriptor_sentences", "sentences", *CONTROLS)


def _by_class(
    inputs: PromptInputs, texts: Sequence[Sequence[str]] | None, phrase: Callable[[str, str], list[str]]
) -> ClassPrompts:
    """Phrase every description of every class; a class without any is left with its one prompt."""
    if texts is None:
        raise InputError("prompts made of descriptions need descriptions of the classes; give --descriptions FILE.json")
    phrased = (
        [prompt for text in of_class for prompt in phrase(name, text)]
        for name, of_class in zip(inputs.names, texts, strict=True)
    )
    return [prompts or prompt for prompts, prompt in zip(phrased, photo(inputs), strict=True)]


def _clause(descriptor: str) -> str:
    """Put a descriptor behind a name in CLIP-D's grammar: which is a ..., which has ..., which often has ..."""
    first = descriptor.split(maxsplit=1)[0].lower()
    if first in ("a", "an", "used"):
        return f"which is {descriptor}"
    if first in ("has", "have", "is", "are", "often", "typically", "usually", "may", "can", "could", "might"):
        return f"which {descriptor}"
    return f"which has {descriptor}"


def _as_descriptor(name: str, sentence: str) -> str:
    """Turn "A {name} has a beak." into "{name}, which has a beak"; another sentence is put behind the name as it is."""
    subject = rf"(?:(?:a|an|the)\s+)?(?:pet\s+)?{re.escape(name)}\s+(?=is\b|has\b|can\b|may\b|looks\b|typically\b)"
    rest = re.sub(rf"^{subject}", "", sentence, flags=re.IGNORECASE)
    text = rest.rstrip(".")
    return f"{name}, which {text}" if rest != sentence else f"{name}: {text}"


def _with_article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _all_names(inputs: PromptInputs) -> list[list[str]]:
    """For each class its name and aliases, longest first, so that none is taken for a part of another."""
    aliases = inputs.aliases or [()] * len(inputs.names)
    every = ({name, *others} for name, others in zip(inputs.names, aliases, strict=True))
    return [sorted((name for name in names if name.strip()), key=lambda name: (-len(name), name)) for names in every]


def _renamed(text: str, names: Sequence[str], new: str) -> str:
    """Put a new name where one of the names stands; what begins with a capital at the text's start still does."""
    patterns: list[str] = []
    for name in names:
        parts = [re.escape(part) for part in re.split(r"[\s_-]+", name) if part]
        if parts[-1][-1] in "yY":
            parts[-1] = f"{parts[-1][:-1]}(?:y|(?P<ies{len(patterns)}>ies))"
        patterns.append(r"[\s_-]+".join(parts))
    either = rf"(?<!\w)(?:(?P<article>an?)\s+)?(?:{'|'.join(patterns)})(?P<plural>s|es)?(?!\w)"

    def renamed(match: re.Match[str]) -> str:
        groups = match.groupdict()
        article = groups.pop("article")
        word = f"{new}s" if any(groups.values()) else new
        if article:
            fitting = _with_article(word)
            return fitting[0].upper() + fitting[1:] if article[0].isupper() else fitting
        return word[0].upper() + word[1:] if match.start() == 0 and match[0][0].isupper() else word

    return re.sub(either, renamed, text, flags=re.IGNORECASE)


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


@lru_cache(maxsize=1)
def _words() -> list[str]:
    """English words of 4 to 10 letters, in a fixed order: those of the EFF's long list, which leaves out offensive ones."""
    from xkcdpass.xkcd_password import generate_wordlist, locate_wordfile

    return sorted(set(generate_wordlist(locate_wordfile("eff-long"), min_length=4, max_length=10, valid_chars="[a-z]")))
