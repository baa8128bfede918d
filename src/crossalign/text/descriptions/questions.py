"""Questions to an LLM about a class, and checks of the texts in its answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crossalign.text.descriptions import Style
from crossalign.text.names import mentions, normalise_name

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
"""Fewest and most words of an accepted text; a little wider than what is asked for."""

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
    """What is asked for, for every class.

    Attributes:
        style: "descriptors" complete "which has ..."; "sentences" name the class.
        count: texts per class.
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

    def sift(self, texts: Iterable[str], name: str, earlier: Sequence[str] = ()) -> tuple[list[str], list[str]]:
        """Separate the usable texts of an answer from the others.

        Args:
            texts: as they came.
            name: of the class that they describe.
            earlier: texts of earlier answers, which must not come again.

        Returns:
            Those that can be used, tidied, and the reasons against the others.
        """
        seen = {normalise_name(text) for text in earlier}
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
            return None if mentions(text, [name]) else "it does not name the class"
        if mentions(text, [name]):
            return "it names the class"
        if text.split()[0].lower() in ("is", "are", "it", "they", "this", "these", "can", "may", "often", "usually"):
            return 'it does not complete "which has ..."'
        return None
