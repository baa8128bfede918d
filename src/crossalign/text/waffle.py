"""WaffleCLIP's prompts: random words and random characters instead of descriptors (Roth et al., ICCV 2023)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from crossalign.text.descriptions import bundled_descriptions, bundled_names
from crossalign.text.phrasing import descriptor_sentence

PAIRS = 15
"""Number of random-word descriptors, and of random-character descriptors, as in the released program."""


@dataclass(frozen=True)
class Noise:
    """Lengths and sources of random descriptors; the lengths follow the class names.

    Attributes:
        words: what words are taken from, truncated to the mean length of the names' words.
        word_count: words in a descriptor, the mean number of words in the names.
        characters: what characters are taken from.
        groups: groups of characters in a descriptor, one more than the mean number of spaces in the names.
        group_length: characters in a group.
    """

    words: tuple[str, ...]
    word_count: int
    characters: str
    groups: int
    group_length: int

    @classmethod
    def like(cls, names: Sequence[str], words: Sequence[str], characters: str) -> Noise:
        """Measure the lengths of class names."""
        split = [name.replace("_", " ").split(" ") for name in names]
        length = int(np.round(np.mean([np.mean([len(word) for word in name_words]) for name_words in split])))
        # Here the released program counts in the names as given, with their underscores.
        groups = int(np.round(np.mean([name.count(" ") for name in names]))) + 1
        count = math.ceil(np.mean([max(map(len, name.split(" "))) for name in names]))
        return cls(
            words=tuple(word[:length] for word in words),
            word_count=max(1, int(np.round(np.mean([len(name_words) for name_words in split])))),
            characters=characters,
            groups=groups,
            # The released program always rounds up, also if the count is a multiple already.
            group_length=(count + groups - count % groups) // groups,
        )

    def random_words(self, generator: np.random.RandomState) -> str:
        """Make a random descriptor of words."""
        return " ".join(self.words[_any(len(self.words), generator)] for _ in range(self.word_count))

    def random_characters(self, generator: np.random.RandomState) -> str:
        """Make a random descriptor of characters."""
        groups = (
            "".join(self.characters[_any(len(self.characters), generator)] for _ in range(self.group_length))
            for _ in range(self.groups)
        )
        return ", ".join(groups)


def waffle_prompts(
    names: Sequence[str], noise: Noise, generator: np.random.RandomState, pairs: int = PAIRS
) -> list[list[str]]:
    """Make the same 2 * `pairs` prompts for all classes, in the released program's stream of random numbers.

    The program makes every class's prompts, then chooses one class and puts the others' names in the place of its name. It
    replaces letters anywhere in a sentence; here the random part stays as it is.

    Args:
        names: C class names.
        noise: what random descriptors are like.
        generator: NumPy's legacy generator.
        pairs: descriptors of words, and as many of characters.
    """
    candidates = [
        [text for _ in range(pairs) for text in (noise.random_words(generator), noise.random_characters(generator))]
        for _ in names
    ]
    chosen = candidates[generator.randint(len(names))]
    return [[descriptor_sentence(name, text, before="A photo of a ", end=".") for text in chosen] for name in names]


def characters_of(texts: Sequence[str]) -> str:
    """Return the distinct characters of texts in order, without spaces, commas and full stops."""
    return "".join(sorted(set("".join(texts)).difference(" ,.")))


@lru_cache(maxsize=1)
def word_list() -> tuple[str, ...]:
    """List the words of 4 to 10 letters in the bundled descriptions, in a fixed order."""
    texts = (
        text for name in bundled_names() for of_class in bundled_descriptions(name).classes.values() for text in of_class
    )
    return tuple(sorted({word for text in texts for word in re.findall(r"\b[a-z]{4,10}\b", text)}))


def _any(count: int, generator: np.random.RandomState) -> int:
    # The same random stream as choice(..., replace=False) of the released program.
    return int(generator.permutation(count)[0])
