"""Class names: comparing them, and finding them in a file or a text, and replacing them in a text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache


def normalise_name(name: str) -> str:
    """Normalise a class name for comparison: lower case, words separated by one space."""
    text = unicodedata.normalize("NFC", re.sub(r"['’`]", "", name.casefold()))
    # Marks stay: in many scripts they are the vowels.
    letters = (letter if letter.isalnum() or unicodedata.category(letter)[0] == "M" else " " for letter in text)
    return " ".join("".join(letters).split())


def match_names(entries: Iterable[str], names: Sequence[str], aliases: Sequence[Sequence[str]] = ()) -> list[str | None]:
    """Find the entry of a file that describes each class.

    Case, hyphens, underscores and apostrophes do not matter, unless entries differ in nothing else. Where a class goes by
    the names of several entries, the entry that fewest classes go by is taken, and the first such in the order of the
    names: so "projectile" is preferred to "missile", a name that two ImageNet classes share.

    Args:
        entries: the names in the file.
        names: C class names.
        aliases: for each class its other names, or nothing.

    Returns:
        For each class an entry, or None if the file has none.
    """
    exact: dict[str, str] = {}
    loose: dict[str, str] = {}
    plain: dict[str, str] = {}
    for entry in entries:
        exact[entry] = entry
        loose.setdefault(loose_name(entry), entry)
        plain.setdefault(normalise_name(entry), entry)
    plain.pop("", None)

    def entry_of(name: str) -> str | None:
        # From strict to loose, since "C++" and "C#" are alike once normalised.
        return exact.get(name) or loose.get(loose_name(name)) or plain.get(normalise_name(name))

    every_name = [(name, *others) for name, others in zip(names, aliases or [()] * len(names), strict=True)]
    candidates = [list(dict.fromkeys(match for n in of_class if (match := entry_of(n)))) for of_class in every_name]
    claims = Counter(entry for of_class in candidates for entry in of_class)
    return [min(of_class, key=claims.__getitem__) if of_class else None for of_class in candidates]


def nearest_name(name: str, entries: Iterable[str]) -> str | None:
    """Find the entry that a class may have in a file under another name, or None.

    First an entry that has all words of the name, or only words of it: "Siamese" for "Siamese cat". Of several, and else of
    all, the one that is spelled most alike: "beagle" for "beagel".
    """
    plain = normalise_name(name)
    words = set(plain.split())
    by_plain = {normalise_name(entry): entry for entry in entries}
    by_plain.pop("", None)
    if not words:
        return None
    within = [other for other in by_plain if words.issubset(other.split()) or words.issuperset(other.split())]
    nearest = get_close_matches(plain, within or by_plain, n=1, cutoff=0.0 if within else 0.8)
    return by_plain[nearest[0]] if nearest else None


def loose_name(name: str) -> str:
    """Remove case, hyphens and underscores from a name; "C++" and "C#" stay different."""
    return " ".join(re.sub(r"[-_]", " ", name.casefold()).split())


def mentions(text: str, names: Sequence[str]) -> bool:
    """Whether a text contains one of a class's names, singular or plural; case and hyphens are ignored.

    What a name has in parentheses to tell it from another ("crane (bird)") is not looked for. A name that is a single letter
    or a common word of English ("A", "I", "It") is found only in its own case, and neither as a word of the sentence nor
    at its beginning: in "A thumb rests beside a fist." no class A is named, but in "The letter A is a fist." it is.
    """
    common = [name for name in names if _is_common(normalise_name(name))]
    if any(_stands_out(text, name.strip()) for name in common):
        return True
    words, parts = _mention_pattern(tuple(name for name in names if name not in common))
    plain = normalise_name(text)
    if words is not None and words.search(plain):
        return True
    return any(part in plain or part in text.casefold() for part in parts)


_COMMON_WORDS = (
    "a an the i am is are be been was it its in on at to of or and as by do go he she we you me my no so up us if this that "
    "they them his her our one with for from not but has have can may will who what how all any some"
)
"""Class names that are also common words, which sentences about any class contain."""


def _is_common(plain: str) -> bool:
    return (len(plain) == 1 and plain.isascii() and plain.isalpha()) or plain in _COMMON_WORDS.split()


def _stands_out(text: str, name: str) -> bool:
    """Whether a text contains a short name as a name, not as an ordinary word."""
    word = re.escape(name)
    if re.search(rf"""["'“‘`]{word}["'”’`]|\b(?:letter|sign|symbol|word|class|shape)s? {word}\b""", text):
        return True
    # A capital letter counts in the middle of a sentence only: every first word has one.
    return name != name.lower() and re.search(rf"(?<![.!?:])(?<=\S)\s+(?:\W*){word}(?!\w)", text) is not None


@lru_cache(maxsize=4096)
def _mention_pattern(names: tuple[str, ...]) -> tuple[re.Pattern[str] | None, tuple[str, ...]]:
    """Compile the pattern of names that are searched as words, and list those that are searched anywhere in the text.

    Scripts that put no spaces between words, and names without a letter, are searched as parts.
    """
    plain = {normalise_name(re.sub(r"\([^)]*\)", " ", name)) or normalise_name(name) or name.strip() for name in names}
    words = sorted(name for name in plain if name.isascii() and re.search(r"[^\W_]", name))
    parts = tuple(name.casefold() for name in sorted(plain.difference(words, [""])))
    return re.compile(rf"\b{_any_of(words)}\b") if words else None, parts


def rename(text: str, names: Sequence[str], new: str) -> str:
    """Replace the names by a new name where they are separate words, also with a plural ending.

    "a" or "an" before it is fixed; what begins with a capital at the text's start still does.
    """
    longest_first = sorted({name for name in names if re.search(r"[^\s_-]", name)}, key=lambda name: (-len(name), name))
    if not longest_first:
        return text
    pattern = rf"(?<!\w)(?:(?P<article>an?)\s+)?{_any_of(longest_first)}(?!\w)"

    def renamed(match: re.Match[str]) -> str:
        groups = match.groupdict()
        article = groups.pop("article")
        word = f"{new}s" if any(groups.values()) else new
        if article:
            fitting = with_article(word)
            return fitting[0].upper() + fitting[1:] if article[0].isupper() else fitting
        return word[0].upper() + word[1:] if match.start() == 0 and match[0][0].isupper() else word

    return re.sub(pattern, renamed, text, flags=re.IGNORECASE)


def _any_of(names: Sequence[str]) -> str:
    """Build a pattern of names; it has a group that matches a plural ending."""
    patterns: list[str] = []
    for name in names:
        parts = [re.escape(part) for part in re.split(r"[\s_-]+", name) if part]
        if parts[-1][-1] in "yY":
            parts[-1] = f"{parts[-1][:-1]}(?:y|(?P<ies{len(patterns)}>ies))"
        patterns.append(r"[\s_-]+".join(parts))
    return rf"(?:{'|'.join(patterns)})(?P<plural>s|es)?"


def with_article(name: str) -> str:
    """Put "a" or "an" before a name, by how it sounds: a unicycle, an umbrella, an hourglass, an SUV."""
    first = re.split(r"[\s-]", name, maxsplit=1)[0]
    if re.fullmatch(_SPELLED, first):
        vowel = first[0] in "AEFHILMNORSX"
    else:
        vowel = re.match(_VOWEL_SOUND, first, re.IGNORECASE) is not None
    return f"{'an' if vowel else 'a'} {name}"


_SPELLED = r"[A-Z][A-Z0-9]{0,2}|[B-DF-HJ-NP-TV-Z]{4,}"
"""A word that is read letter by letter."""
_VOWEL_SOUND = r"(?!eu|ewe|one$|once$|uni(?![nm])|u[bkrst][aeiou])[aeiou]|hour|honou?r|honest|heir"
