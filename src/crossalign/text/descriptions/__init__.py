"""Descriptions of classes: JSON files that are bundled with the package, or a user's own."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import get_args

from crossalign.errors import InputError
from crossalign.text.descriptions.style import Style as Style
from crossalign.text.descriptions.style import says_something, style_of, tidy_descriptor, tidy_sentence
from crossalign.text.names import match_names, mentions, nearest_name
from crossalign.text.names import normalise_name as normalise_name

SCHEMA = 1
MOST_HINTS = 5
"""Missing classes that an error compares with the names in the file."""


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by class, as they stand in a file.

    Attributes:
        source: the file's path, or "bundled:NAME".
        style: "descriptors" are fragments to be put behind a class name ("has a flat face", "a seabird"); "sentences"
            are prompts as they stand, class name included.
        classes: class name to its descriptions, repeats included.
        guessed: nobody stated the style, so the texts tell it.
    """

    source: str
    style: Style
    classes: Mapping[str, tuple[str, ...]]
    guessed: bool = False

    def match(
        self, names: Sequence[str], aliases: Sequence[Sequence[str]] = (), *, allow_missing: bool = False
    ) -> list[tuple[str, ...]]:
        """Find the descriptions of each class, as `match_names` finds its entry.

        Args:
            names: C class names.
            aliases: for each class its other names, or nothing.
            allow_missing: warn of classes without descriptions instead of refusing them.

        Returns:
            For each class its descriptions; an empty tuple for one that has none.

        Raises:
            InputError: names every class that has none.
        """
        entries = self._entries(names, aliases)
        matched = [() if entry is None else self.classes[entry] for entry in entries]
        missing = [name for name, texts in zip(names, matched, strict=True) if not texts]
        if missing:
            used = set(entries)
            unused = [name for name, texts in self.classes.items() if texts and name not in used]
            hints = [_with_hint(name, unused) for name in missing[:MOST_HINTS]]
            lack = (
                f"{self.source} has no descriptions for {len(missing)} of {len(names)} classes: "
                f"{', '.join([*hints, *missing[MOST_HINTS:]])}"
            )
            if not allow_missing:
                way_out = "rename the classes, add them to the file, or allow missing ones (allow_missing, --allow-missing)"
                raise InputError(f"{lack}; {way_out}")
            warnings.warn(f"{lack}; hand-written prompts stand for them", stacklevel=2)
        return matched

    def style_for(self, names: Sequence[str], aliases: Sequence[Sequence[str]] = ()) -> Style:
        """Return the stated style, or infer it from the texts of these classes; warns if it is unclear."""
        return style_of(self._names_and_texts(names, aliases), self.source) if self.guessed else self.style

    def tidy(
        self, style: Style, names: Sequence[str], aliases: Sequence[Sequence[str]] = (), *, allow_missing: bool = False
    ) -> list[tuple[str, ...]]:
        """Find the descriptions of each class as `match` does, and tidy them for prompts.

        White space is folded, marks of lists and of bold type are taken out, as are texts without letters, and descriptors
        are made to read well behind a name. A warning counts the sentences that do not name their class.
        """
        telling = {name: tuple(filter(says_something, texts)) for name, texts in self.classes.items()}
        matched = replace(self, classes=telling).match(names, aliases, allow_missing=allow_missing)
        called = [every_name for every_name, _ in self._names_and_texts(names, aliases)]
        if style == "descriptors":
            return [
                tuple(tidy_descriptor(text, of_class) for text in texts)
                for texts, of_class in zip(matched, called, strict=True)
            ]
        sentences = [tuple(map(tidy_sentence, texts)) for texts in matched]
        self._warn_of_nameless(sentences, called)
        return sentences

    def _names_and_texts(
        self, names: Sequence[str], aliases: Sequence[Sequence[str]]
    ) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The names of each class, including its name in the file, and its texts."""
        every_alias = aliases or [()] * len(names)
        return [
            ((name, *others), ()) if entry is None else ((name, *others, entry), self.classes[entry])
            for name, others, entry in zip(names, every_alias, self._entries(names, aliases), strict=True)
        ]

    def _entries(self, names: Sequence[str], aliases: Sequence[Sequence[str]]) -> list[str | None]:
        """For each class its name in the file, or None."""
        return match_names([name for name, texts in self.classes.items() if texts], names, aliases)

    def _warn_of_nameless(self, sentences: Sequence[Sequence[str]], called: Sequence[Sequence[str]]) -> None:
        nameless = [
            sum(not (mentions(text, of_class) or _stands_in(text, of_class)) for text in texts)
            for texts, of_class in zip(sentences, called, strict=True)
        ]
        if count := sum(nameless):
            warnings.warn(
                f"{self.source}: {count} of {sum(map(len, sentences))} sentences, in {sum(map(bool, nameless))} of "
                f"{len(sentences)} classes, do not name their class. They are taken as they stand; with the description "
                "style descriptors, all texts are put behind the class name",
                stacklevel=4,
            )


def _with_hint(name: str, entries: Sequence[str]) -> str:
    """Name a missing class, with the entry that may be it."""
    nearest = nearest_name(name, entries)
    return name if nearest is None else f"{name} (did you mean {nearest!r}?)"


def _stands_in(text: str, names: Sequence[str]) -> bool:
    """Whether a text contains a name letter for letter, as "a photo of a one." contains "one"."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)


def load_descriptions(path: str | Path, style: Style | None = None) -> Descriptions:
    """Read descriptions from a JSON file: this package's own kind, or {class name: [text, ...]} as CuPL's and DCLIP's.

    Args:
        path: the file.
        style: what the texts are, whatever the file states; by default what it states, or else what the texts tell.

    Raises:
        InputError: the file is missing, is no JSON, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"descriptions {str(path)!r} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"descriptions {str(path)!r} are no JSON ({error}); give a file {{class: [text]}}") from None
    return parse_descriptions(content, str(path), style)


def bundled_descriptions(name: str) -> Descriptions:
    """Load the descriptions that ship with the package.

    Raises:
        InputError: there are none of that name.
    """
    file = resources.files(__name__) / f"{name}.json"
    if name not in bundled_names():
        raise InputError(f"no descriptions {name!r} are bundled; bundled are {', '.join(bundled_names())}")
    return parse_descriptions(json.loads(file.read_text(encoding="utf-8")), f"bundled:{name}")


def bundled_names() -> list[str]:
    """List the datasets whose descriptions ship with the package."""
    files = (file.name for file in resources.files(__name__).iterdir())
    return sorted(file.removesuffix(".json") for file in files if file.endswith(".json"))


def parse_descriptions(content: object, source: str, style: Style | None = None) -> Descriptions:
    """Build descriptions from the content of a file; `source` names it in errors, and `style` is as for `load_descriptions`.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(content, dict):
        raise InputError(f"{source} holds a {type(content).__name__}, not {{class: [text]}}; give such a file")
    if style not in (None, *get_args(Style)):
        raise InputError(f"description style is {style!r}, but must be one of {', '.join(get_args(Style))}")
    if "schema" not in content:
        classes = _classes(content, source)
        own = (((name,), texts) for name, texts in classes.items())
        return Descriptions(source, style or style_of(own), classes, guessed=style is None)
    if content["schema"] != SCHEMA:
        raise InputError(f"{source} has schema {content['schema']!r}, but this version reads {SCHEMA}; upgrade crossalign")
    classes = _classes(content.get("classes"), source)
    stated = content.get("style")
    if stated not in (*get_args(Style), "fragments"):
        raise InputError(f"{source} has style {stated!r}; write descriptors, fragments or sentences")
    if stated == "descriptors" and style != "sentences":
        # Our own descriptors complete "which has ..."; with the verb they follow CLIP-D's grammar.
        classes = {name: tuple(f"has {text}" for text in texts) for name, texts in classes.items()}
    return Descriptions(source, style or ("sentences" if stated == "sentences" else "descriptors"), classes)


def _classes(content: object, source: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(content, dict) or not content:
        raise InputError(f"{source} names no classes; give {{class: [text]}}")
    for name, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{source} has for {name!r} something else than a list of texts; fix that entry")
    return {name: tuple(text for text in texts if text.strip()) for name, texts in content.items()}
