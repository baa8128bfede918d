"""What is typed into the web page's fields, and what is put there: labels and descriptions as people write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossalign.errors import InputError
from crossalign.text.descriptions import parse_descriptions
from crossalign.text.labels import split_labels
from crossalign.web.label_sets import ExampleFile, Question, Views


@dataclass(frozen=True)
class Typed:
    """What stands in the page's fields; the attributes are those of `Question`, as text where they are typed."""

    labels: str
    descriptions: str = ""
    other: str = ""
    method: str = "wca"
    views: Views = None
    domain: str = ""
    threshold: float | None = None


def question_of(
    typed: Typed, examples: Mapping[str, Sequence[ExampleFile]] | None = None, own: Sequence[str] = ()
) -> Question:
    """Turn what stands in the page's fields into a question.

    Args:
        typed: the fields.
        examples: example images by class.
        own: the server's own class names; they are meant if they stand in the field of labels as they are.

    Raises:
        InputError: labels or descriptions cannot be read.
    """
    labels = split_labels(typed.labels, "the field of labels")
    if not labels and not examples:
        raise InputError("there are no labels yet; type two or more, or add classes by examples")
    descriptions = _texts(typed.descriptions, labels) if typed.descriptions.strip() else None
    return Question.of(
        () if labels == list(own) and not examples else labels,
        descriptions,
        examples,
        split_labels(typed.other, "the field of other labels"),
        method=typed.method,
        views=typed.views,
        domain=typed.domain.strip(),
        threshold=typed.threshold,
    )


def _texts(typed: str, labels: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Read descriptions as lines "label: text; text" or as JSON."""
    if typed.lstrip().startswith("{"):
        try:
            content = json.loads(typed)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the descriptions begin like JSON, but are none ({error}); fix them") from None
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
