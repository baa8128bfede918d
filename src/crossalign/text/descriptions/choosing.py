"""Which descriptions a classifier uses: the given ones, bundled ones that know all its labels, or hand-written templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from crossalign.text.descriptions import (
    Descriptions,
    bundled_descriptions,
    bundled_names,
    load_descriptions,
    parse_descriptions,
)
from crossalign.text.names import normalise_name

NO_DESCRIPTIONS = "none"
"""What is given to use hand-written templates, whatever is bundled."""
TEMPLATES = "templates"
"""The source of descriptions that are hand-written templates."""

Given = Descriptions | Mapping[str, Sequence[str]] | str | Path | None
"""What a user may give as descriptions; see `descriptions_for`."""


def descriptions_for(labels: Sequence[str], given: Given = None, *, templates: Sequence[str]) -> Descriptions:
    """Choose the descriptions of some labels; `Descriptions.source` says which they are.

    Args:
        labels: C class names.
        given: descriptions, {label: texts}, a JSON file, the name of bundled descriptions, or "none" for the templates.
            None uses the bundled descriptions that `bundled_for` names, and else the templates. A file called "none", or
            like bundled descriptions, is preferred.
        templates: hand-written prompts with {} for the name.

    Raises:
        InputError: the given descriptions cannot be read, or are something else.
    """
    if given is None and (name := bundled_for(labels)):
        return bundled_descriptions(name)
    if given is None or is_none(given):
        filled = {label: tuple(template.replace("{}", label) for template in templates) for label in labels}
        return Descriptions(TEMPLATES, "sentences", filled)
    if isinstance(given, Descriptions):
        return given
    if isinstance(given, (str, Path)):
        bundled = str(given) in bundled_names() and not Path(given).exists()
        return bundled_descriptions(str(given)) if bundled else load_descriptions(given)
    # A single text is a sequence too, of letters; `parse_descriptions` refuses it.
    lists = {name: texts if isinstance(texts, str) else list(texts) for name, texts in given.items()}
    return parse_descriptions(lists, "descriptions")


def is_none(given: Given) -> bool:
    """Whether the word "none" was given, which is not a file."""
    return isinstance(given, str) and given == NO_DESCRIPTIONS and not Path(given).exists()


def bundled_for(labels: Sequence[str]) -> str | None:
    """Name the bundled descriptions that have a class for each label, or None if there are none.

    Names are compared by `normalise_name`. If several files have all labels, the one with the fewest classes is used, then
    the first by name: a description says what tells a class from the other classes of its file, and in a small file these
    are of one kind, as the labels are.
    """
    wanted = {normalise_name(label) for label in labels}
    # Two labels with one normalised name would share their descriptions.
    if not wanted or "" in wanted or len(wanted) < len(labels):
        return None
    fitting = [(len(classes), name) for name, classes in _bundled_classes().items() if wanted <= classes]
    return min(fitting)[1] if fitting else None


@lru_cache(maxsize=1)
def _bundled_classes() -> dict[str, frozenset[str]]:
    """For each dataset with bundled descriptions, its normalised class names."""
    # The demo's texts describe the few photos that it shows.
    datasets = [name for name in bundled_names() if name != "demo"]
    return {name: frozenset(map(normalise_name, bundled_descriptions(name).classes)) for name in datasets}
