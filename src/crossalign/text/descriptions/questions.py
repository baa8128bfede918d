"""What an LLM is asked for descriptions of a class, and which of its texts can be used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crossalign.text.descriptions import Style, normalise_name

INSTRUCTION = """\
You describe what classes of pictures look like, so that a vision-language model can tell them apart. For the class that \
you are given, write {count} {wanted} Put first what tells the class from those that look most like it. Leave out what \
cannot be seen (behaviour, sound, smell, taste, price, history), vague filler and repeats. Answer with JSON and nothing \
else: {example}"""

WANTED: dict[Style, str] = {
    "descriptors": (
        "descriptors. Each is one property that a camera shows (shape, colour, part, texture, pattern, material, pose, "
        'scale or setting): a noun phrase of 3 to 14 words that completes "a photo of one, which has ...". Never put the '
        "class name into a descriptor."
    ),
    "sentences": (
        "sentences of 6 to 30 words. Each names the class and tells one thing that a photo of it shows: shape, colour, "
        "part, texture, pattern, material, pose, scale or setting."
    ),
}
EXAMPLE: dict[Style, str] = {
    "descriptors": '{"descriptions": ["a ... with ...", "..."]}',
    "sentences": '{"descriptions": ["A ... has ...", "..."]}',
}
WORDS: dict[Style, tuple[int, int]] = {"descriptors": (2, 20), "sentences": (4, 40)}
"""Fewest and most words of a text that is taken; a little wider than what is asked for."""

ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"descriptions": {"type": "array", "items": {"type": "string"}}},
    "required": ["descriptions"],
    "additionalProperties": False,
}
CHARACTERS_A_TOKEN = 4
TOKENS_A_TEXT: dict[Style, int] = {"descriptors": 18, "sentences": 30}


@dataclass(frozen=True)
class Order:
    """What is wanted of every class.

    Attributes:
        style: "descriptors" complete "which has ..."; "sentences" name the class.
        count: texts a class.
        domain: what kind of thing all classes are ("types of pet"), or empty.
    """

    style: Style
    count: int
    domain: str = ""

    @property
    def instruction(self) -> str:
        """The system message."""
        return INSTRUCTION.format(count=self.count, wanted=WANTED[self.style], example=EXAMPLE[self.style])

    def question(self, name: str, near: Sequence[str] = ()) -> str:
        """The user message about one class; `near` are classes that it could be taken for."""
        lines = [f"Class: {name}"]
        if self.domain:
            lines.append(f"Kind: {self.domain}")
        if near:
            lines.append(f"Easily taken for: {'; '.join(near)}")
            lines.append("Name above all what these do not have, or have otherwise.")
        return "\n".join(lines)

    def tokens(self, questions: Sequence[str]) -> tuple[int, int]:
        """Estimate the tokens sent and received when each question is asked once."""
        sent = sum(len(self.instruction) + len(question) for question in questions) // CHARACTERS_A_TOKEN
        return sent, len(questions) * self.count * TOKENS_A_TEXT[self.style]

    def sift(self, texts: Iterable[str], name: str, kept: Sequence[str] = ()) -> tuple[list[str], list[str]]:
        """Part the texts of an answer.

        Args:
            texts: as they came.
            name: of the class that they describe.
            kept: texts of earlier answers, which must not come again.

        Returns:
            Those that can be used, tidied, and the reasons against the others.
        """
        seen = {normalise_name(text) for text in kept}
        usable, reasons = [], []
        for text in map(self._tidy, texts):
            fault = "it stands there already" if normalise_name(text) in seen else self._fault(text, name)
            if fault:
                reasons.append(f'"{text}": {fault}')
            else:
                usable.append(text)
                seen.add(normalise_name(text))
        return usable, reasons

    def _tidy(self, text: str) -> str:
        text = text.encode("utf-8", "ignore").decode()  # Half an emoji, "\\ud83d", cannot be written to a file.
        text = re.sub(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+", "", text).strip().strip('"“”')
        text = " ".join(text.split())
        if self.style == "descriptors":
            text = re.sub(r"^(?:it |which )?has (?=\S)", "", text, flags=re.IGNORECASE).rstrip(" .;,")
        return text

    def _fault(self, text: str, name: str) -> str | None:
        fewest, most = WORDS[self.style]
        words = len(text.split())
        if not fewest <= words <= most:
            return f"it has {words} words, not {fewest} to {most}"
        if self.style == "sentences":
            return None if mentions(text, name) else "it does not name the class"
        if mentions(text, name):
            return "it names the class"
        if text.split()[0].lower() in ("is", "are", "it", "they", "this", "these", "can", "may", "often", "usually"):
            return 'it does not complete "which has ..."'
        return None


_COMMON_WORDS = (
    "a an the i am is are be been was it its in on at to of or and as by do go he she we you me my no so up us if this that "
    "they them his her our one with for from not but has have can may will who what how all any some"
)
"""Words that stand in sentences of any class."""


def mentions(text: str, name: str) -> bool:
    """Tell whether a class name stands in a text, in the singular or plural and whatever its case and hyphens.

    What a name has in parentheses to tell it from another ("crane (bird)") is not looked for. A name that is a single letter
    or a common word of English ("A", "I", "It") is found only in its own case, and neither as a word of the sentence nor
    at its beginning: in "A thumb rests beside a fist." no class A is named, but in "The letter A is a fist." it is.
    """
    plain = normalise_name(re.sub(r"\([^)]*\)", " ", name)) or normalise_name(name)
    if not plain:
        return name.casefold() in text.casefold()
    if (len(plain) == 1 and plain.isalpha()) or plain in _COMMON_WORDS.split():
        return _stands_out(text, " ".join(re.sub(r"\([^)]*\)", " ", name).split()))
    return re.search(rf"\b{re.escape(plain)}(?:s|es)?\b", normalise_name(text)) is not None


def _stands_out(text: str, name: str) -> bool:
    """Tell whether a short name stands in a text as a name, not as an ordinary word."""
    word = re.escape(name)
    if re.search(rf"""["'“‘`]{word}["'”’`]|\b(?:letter|sign|symbol|word|class|shape)s? {word}\b""", text):
        return True
    # A capital in the middle of a sentence; one at its beginning is any word's.
    return name != name.lower() and re.search(rf"(?<![.!?:])(?<=\S)\s+(?:\W*){word}(?!\w)", text) is not None
