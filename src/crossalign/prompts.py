"""What to say about a class: class names, templates and descriptions become the sentences that the encoder reads."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from crossalign.descriptions import Descriptions
from crossalign.errors import InputError

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
        seed: of random descriptors.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...] = (PHOTO,)
    domain: str = ""
    descriptors: Sequence[Sequence[str]] | None = None
    sentences: Sequence[Sequence[str]] | None = None
    seed: int = 0


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
    return PromptInputs(tuple(names), tuple(templates), domain, by_style.get("descriptors"), by_style.get("sentences"), seed)


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
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((inputs.seed, 0x3AFF1E))))
    words = _words()
    noises = []
    for _ in range(WAFFLE_EACH):
        pair = [words[i] for i in generator.integers(len(words), size=2)]
        # Characters come in groups as long as the words, so that only their meaning is lost.
        letters = ["".join(generator.choice(list(string.ascii_letters), size=len(word))) for word in pair]
        noises += [" ".join(pair), " ".join(letters)]
    return [[f"A photo of a {name}, which has {noise}." for noise in noises] for name in inputs.names]


SOURCES: dict[str, Callable[[PromptInputs], ClassPrompts]] = {
    source.__name__: source for source in (photo, templates, descriptor_sentences, sentences, waffle)
}
NEED_DESCRIPTIONS = ("descriptor_sentences", "sentences")


def _by_class(
    inputs: PromptInputs, texts: Sequence[Sequence[str]] | None, phrase: Callable[[str, str], list[str]]
) -> ClassPrompts:
    """Phrase every description of every class; a class without any is left with its one prompt."""
    if texts is None:
        raise InputError("clip-d, cupl and wca need descriptions of the classes; give --descriptions FILE.json")
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


@lru_cache(maxsize=1)
def _words() -> list[str]:
    """English words of 4 to 10 letters, in a fixed order: those of the EFF's long list, which leaves out offensive ones."""
    from xkcdpass.xkcd_password import generate_wordlist, locate_wordfile

    return sorted(set(generate_wordlist(locate_wordfile("eff-long"), min_length=4, max_length=10, valid_chars="[a-z]")))
