"""Whether a file holds sentences or fragments, and texts without the marks of lists and of bold type."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from crossalign.text.names import mentions

Style = Literal["descriptors", "sentences"]
"""Fragments that follow a class name, or complete prompts."""

NAMED_BY_SENTENCES = {"stopped": 0.3, "unstopped": 0.9}
"""The least share of texts that name their class in a file of sentences, if most end in a full stop and if not.

In published files of sentences all texts end in one, and 42 to 98 % name their class.
"""
NAMED_BY_FRAGMENTS = {"stopped": 0.1, "unstopped": 0.3}
"""The greatest share in a file of fragments. In published files hardly any ends in a full stop, and 0 to 3 % name it."""

DescribedClass = tuple[Sequence[str], Sequence[str]]
"""The names of a class and its texts."""


def style_of(described: Iterable[DescribedClass], source: str = "") -> Style:
    """Tell sentences from fragments by how many texts name their class.

    Sentences are prompts of their own, so they name what they are about and end in a full stop; fragments stand behind the
    name and do neither.

    Args:
        described: for each class its names and texts.
        source: the file that a warning names where that is unclear; without one there is none.
    """
    texts = [(text, names) for names, of_class in described for text in of_class]
    if not texts:
        return "descriptors"
    named = sum(mentions(text, names) for text, names in texts)
    stopped = 2 * sum(text.rstrip("*_ \n")[-1:] in _STOPS for text, _ in texts) > len(texts)
    key = "stopped" if stopped else "unstopped"
    if named >= NAMED_BY_SENTENCES[key] * len(texts):
        return "sentences"
    about_others = 2 * sum(_is_full_sentence(text) for text, _ in texts) > len(texts)
    few = named <= NAMED_BY_FRAGMENTS[key] * len(texts)
    if few and not about_others:
        return "descriptors"
    style: Style = "sentences" if stopped and not few else "descriptors"
    if not source:
        return style
    taken = "sentences, that is as they stand" if style == "sentences" else "descriptors, that is put behind the class name"
    warnings.warn(
        f"{source}: {named} of {len(texts)} texts name their class, so it is unclear whether they are sentences or "
        f"descriptors; they are taken as {taken}. State the description style, sentences or descriptors",
        stacklevel=3,
    )
    return style


def _is_full_sentence(text: str) -> bool:
    """Tell a sentence about something, "The bill is short.", from "It has a short bill." and "a short bill"."""
    plain = tidy_sentence(text)
    return (
        plain[-1:] in _STOPS
        and re.match(rf"{_PRONOUN}\b", plain, re.IGNORECASE) is None
        and re.search(rf"\w+\s+(?:{_VERB})\b", plain) is not None
    )


_STOPS = (".", "!", "?", "。", "！", "？")
_MARK = r"(?:[-*•·◦▪‣–—#>]+|\(?\d{1,3}[.)]|[a-z]\))"
_VERB = r"is|are|was|were|has|have|had|can|may|might|could|looks|appears|lives|wears|shows|consists|comes"
_VERB_OF_MANY = "look|appear|live|wear|show|consist|come"
_PRONOUN = r"(?:it|they|he|she|this|these)"
_BETWEEN_WORDS = r"[\s_-]+"
_ADVERB = rf"(?:also|always|often|sometimes|typically|usually)(?=\s+(?:{_VERB})\b)"
_WITHOUT_SUBJECT = re.compile(rf"(?:which\s+|that\s+)?(?P<verb>{_VERB}|{_ADVERB})\s+(?=\S)", re.IGNORECASE)
"""A verb, but none that may be another word: "live plants" is no clause."""


def says_something(text: str) -> bool:
    """Whether a text has a letter or digit."""
    return any(map(str.isalnum, text))


def tidy_sentence(text: str) -> str:
    """Take the marks of lists and of bold type out of a text, as typed in Markdown and HTML, and fold its white space.

    A list inside a text goes on behind commas.
    """
    while (tidier := _without_marks(text)) != text:
        text = tidier
    return text


def _without_marks(text: str) -> str:
    text = re.sub(r"</?(?:b|i|u|em|strong|p|br|ul|ol|li)\s*/?>", " ", text, flags=re.IGNORECASE)
    text = re.sub(rf"(?<=\w)\s*\n\s*{_MARK}\s+(?=[\w*])", ", ", text)
    text = re.sub(rf"\n\s*{_MARK}\s+(?=[\w*])", "\n", text)
    text = re.sub(r"\*{2,}|__+|(?<!\w)\*|\*(?!\w)", "", text)
    text = re.sub(rf"^\s*(?:{_MARK}\s+|[-*•·◦▪‣–—#>]+(?=[^\W\d]))", "", text)
    text = re.sub(r"\.{2,}$", ".", text.strip())
    text = re.sub(r'^["“](.*)["”]$', r"\1", text)
    return " ".join(text.split())


def tidy_descriptor(text: str, names: Sequence[str] = ()) -> str:
    """Make a fragment that reads well behind a class name, in the grammar of `phrasing.clause`.

    "It is a seabird." becomes "a seabird", "It has black feet." becomes "has black feet", "They are small." becomes
    "which are small", "A seabird" becomes "a seabird".

    Args:
        text: as it stands in a file.
        names: of the class, which may be the text's subject: "The owl has tufts." becomes "has tufts".
    """
    plain = tidy_sentence(text)
    fragment = re.sub(r"^with\s+(?=\S)", "", plain.rstrip(" .,;:!"), flags=re.IGNORECASE) or plain
    return _lower_first(_predicate(fragment, names) or fragment)


def predicate_of(sentence: str, names: Sequence[str]) -> str | None:
    """Turn a sentence about its class into a descriptor; None if the class is not its subject."""
    predicate = _predicate(tidy_sentence(sentence).rstrip(" .,;:!"), names, named=True)
    return None if predicate is None else _lower_first(predicate)


def _predicate(text: str, names: Sequence[str], *, named: bool = False) -> str | None:
    """Remove the subject: a pronoun or a name; unless it must be named, it may be missing."""
    if text.startswith("has ") and not named:
        return text
    text = re.sub(
        r"^(it|they|this|that)['’](s|re)\b", lambda m: f"{m[1]} {'is' if m[2] == 's' else 'are'}", text, flags=re.I
    )
    match = _with_subject(tuple(names), named).match(text) or (None if named else _WITHOUT_SUBJECT.match(text))
    if match is None:
        return None
    verb, rest = match["verb"].lower(), text[match.end() :]
    if verb in ("has", "have"):
        return f"has {rest}"
    if verb in ("is", "are") and rest.startswith(("a", "used")):
        return rest
    if verb in ("can", "may", "often", "typically"):
        return f"{verb} {rest}"
    return f"which {verb} {rest}"


@lru_cache(maxsize=2048)
def _with_subject(names: tuple[str, ...], named: bool) -> re.Pattern[str]:
    """Compile a pattern of a subject and a verb."""
    split = [re.split(_BETWEEN_WORDS, name.strip()) for name in names if name.strip()]
    subjects = [rf"(?:(?:an?|the)\s+)?{_BETWEEN_WORDS.join(map(re.escape, words))}" for words in split]
    if not named:
        subjects.append(rf"(?:(?:this|these)\s+\w+(?:\s+\w+)?|{_PRONOUN})")
    verb = rf"(?P<verb>{_VERB}|{_VERB_OF_MANY}|{_ADVERB})"
    return re.compile(rf"(?:{'|'.join(subjects)})\s+(?:which\s+|that\s+)?{verb}\s+(?=\S)", re.IGNORECASE)


def _lower_first(text: str) -> str:
    """Begin with a small letter where the first word is no name."""
    return re.sub(r"^(?:A|An|The|Its|Has|Often|Typically|May|Can|Used|Which)\b", lambda match: match[0].lower(), text)
