"""What is typed into the web page's fields, and what is put there: labels and descriptions as people write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from crossalign.errors import InputError
from crossalign.text.descriptions import parse_descriptions
from crossalign.text.labels import split_labels
from crossalign.web.label_sets import Question, Views


def question_of(labels: str, descriptions: str, method: str, views: Views, domain: str) -> Question:
    """Take what stands in the page's fields.

    Raises:
        InputError: the descriptions cannot be read.
    """
    names = split_labels(labels, "the field of labels")
    texts = _texts(descriptions, names) if descriptions.strip() else None
    return Question.of(names, texts, method=method, views=views, domain=domain)


def _texts(typed: str, labels: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Read descriptions as lines "label: text; text" or as JSON."""
    if typed.lstrip().startswith("{"):
        try:
            content = json.loads(typed)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the descriptions begin like JSON, but are none ({error}); mend them") from None
        return parse_descriptions(content, "the descriptions").classes
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(typed.splitlines(), start=1):
        if not line.strip():
            continue
        # A label may hold a colon itself.
        label = next((label for label in labels if line.strip().startswith(f"{label}:")), line.partition(":")[0].strip())
        if not (rest := line.strip()[len(label) :]).startswith(":"):
            raise InputError(f"line {number} of the descriptions has no colon; write it as label: text; text")
        texts.setdefault(label, []).extend(text.strip() for text in rest[1:].split(";") if text.strip())
    return texts


def as_lines(texts: Mapping[str, Sequence[str]]) -> str:
    """Write descriptions as lines "label: text; text"."""
    return "\n".join(f"{label}: {'; '.join(text.replace(';', ',') for text in of_one)}" for label, of_one in texts.items())
