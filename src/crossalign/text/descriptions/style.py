"""Whether a file holds sentences or fragments, and texts without the marks of lists and of bold type."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

from crossalign.text.names import mentions

Style = Literal["descriptors", "sentences"]
"""Fragments that go behind a class name, or prompts as they stand."""

NAMED_IN_SENTENCES = 0.3
"""Sentences name their class at least so often: published files of sentences do in 42 to 98 % of their texts."""
NAMED_IN_FRAGMENTS = 0.1
"""Fragments name it at most so often: published files of fragments do in 0 to 3 % of theirs."""

DescribedClass = tuple[Sequence[str], Sequence[str]]
"""The names of a class and its texts."""


def style_of(described: Iterable[DescribedClass], source: str) -> Style:
    """Tell sentences from fragments by how many texts name their class.

    Sentences are prompts of their own, so they name what they are about; fragments stand behind the name and don't.
    Where that is unclear, a warning says what was assumed.

    Args:
        described: for each class its names and texts.
        source: names the file in the warning.
    """
    texts = [(text, names) for names, of_class in described for text in of_class]
    if not texts:
        return "descriptors"
    named = sum(mentions(text, names) for text, names in texts)
    if named >= NAMED_IN_SENTENCES * len(texts):
        return "sentences"
    whole = sum(_is_whole_sentence(text) for text, _ in texts)
    if named <= NAMED_IN_FRAGMENTS * len(texts) and 2 * whole <= len(texts):
        return "descriptors"
    stopped = sum(text.rstrip()[-1:] in (".", "!", "?") for text, _ in texts)
    style: Style = "sentences" if named > NAMED_IN_FRAGMENTS * len(texts) and 2 * stopped > len(texts) else "descriptors"
    taken = "sentences, as they stand" if style == "sentences" else "descriptors, to be put behind the class name"
    warnings.warn(
        f"{source}: {named} of {len(texts)} texts name their class, so it is unclear whether they are sentences or "
        f"descriptors; they were taken as {taken}. State the description style, sentences or descriptors, to be sure",
        stacklevel=2,
    )
    return style


def _is_whole_sentence(text: str) -> bool:
    """Tell a sentence about something, "The bill is short.", from "It has a short bill." and "a short bill"."""
    plain = tidy_sentence(text)
    return (
        plain[-1:] in (".", "!", "?")
        and re.match(rf"{_PRONOUN}\b", plain, re.IGNORECASE) is None
        and re.search(rf"\w+\s+(?:{_VERB})\b", plain) is not None
    )


_MARK = r"(?:[-*•·◦▪‣–—#>]+|\(?\d{1,3}[.)]|[a-z]\))"
_VERB = r"is|are|was|were|has|have|had|can|may|might|could|looks?|appears?|lives?|wears?|shows?|consists?|comes?"
_PRONOUN = r"(?:it|they|he|she|this|these)"
_BETWEEN_WORDS = r"[\s_-]+"


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
    """Make a fragment that reads well behind a class name, in the grammar of `prompts.clause`.

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
    """Give what a sentence says of its class, as a descriptor; None if the class is not its subject."""
    found = _predicate(tidy_sentence(sentence).rstrip(" .,;:!"), names, named=True)
    return None if found is None else _lower_first(found)


def _predicate(text: str, names: Sequence[str], *, named: bool = False) -> str | None:
    """Take off the subject, which is a pronoun, a name or, unless it must be named, left out."""
    text = re.sub(r"^(it|they|this|that)['’](s|re)\b", lambda m: f"{m[1]} {'is' if m[2] == 's' else 'are'}", text, flags=re.I)
    split = [map(re.escape, re.split(_BETWEEN_WORDS, name.strip())) for name in names if name.strip()]
    subjects = [rf"(?:(?:an?|the)\s+)?{_BETWEEN_WORDS.join(words)}" for words in split]
    if not named:
        subjects.append(rf"(?:(?:this|these)\s+\w+(?:\s+\w+)?|{_PRONOUN})")
    subject = rf"(?:(?:{'|'.join(subjects)})\s+){'' if named else '?'}"
    verb = rf"(?:{_VERB}|(?:also|always|often|sometimes|typically|usually)(?=\s+(?:{_VERB})\b))"
    match = re.match(rf"{subject}(?:which\s+|that\s+)?({verb})\s+(?=\S)", text, re.IGNORECASE)
    if match is None:
        return None
    verb, rest = match[1].lower(), text[match.end() :]
    if verb in ("has", "have"):
        return f"has {rest}"
    if verb in ("is", "are") and re.match(r"a|used", rest):
        return rest
    if verb in ("can", "may", "often", "typically"):
        return f"{verb} {rest}"
    return f"which {verb} {rest}"


def _lower_first(text: str) -> str:
    """Begin with a small letter where the first word is no name."""
    return re.sub(r"^(?:A|An|The|Its|Has|Often|Typically|May|Can|Used|Which)\b", lambda match: match[0].lower(), text)
