"""What classes look like, in words: files of descriptions by class, bundled with the package or a user's own."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from crossalign.errors import InputError

Style = Literal["descriptors", "sentences"]
SCHEMA = 1


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by class.

    Attributes:
        source: the file's path, or "bundled:NAME".
        style: "descriptors" are fragments to be put behind a class name ("has a flat face", "a seabird"); "sentences"
            are prompts as they stand, class name included.
        classes: class name to its descriptions.
    """

    source: str
    style: Style
    classes: Mapping[str, tuple[str, ...]]

    def match(
        self, names: Sequence[str], aliases: Sequence[Sequence[str]] = (), *, allow_missing: bool = False
    ) -> list[tuple[str, ...]]:
        """Find the descriptions of each class, whatever the case, underscores, hyphens and apostrophes of its name.

        Args:
            names: C class names.
            aliases: for each class other names of it, tried in turn where the file lacks the first; or nothing.
            allow_missing: warn of classes without descriptions instead of refusing them.

        Returns:
            For each class its descriptions; an empty tuple for one that has none.

        Raises:
            InputError: names every class that has none.
        """
        known = {normalise_name(name): texts for name, texts in self.classes.items() if texts}
        every = ([name, *others] for name, others in zip(names, aliases or [()] * len(names), strict=True))
        # A name as it stands comes first, since "C++" and "C#" are alike once normalised.
        found = [
            next((texts for n in of_class if (texts := self.classes.get(n) or known.get(normalise_name(n)))), ())
            for of_class in every
        ]
        missing = [name for name, texts in zip(names, found, strict=True) if not texts]
        if missing:
            lack = f"{self.source} has no descriptions for {len(missing)} of {len(names)} classes: {', '.join(missing)}"
            if not allow_missing:
                raise InputError(
                    f"{lack}; add them to the file or rename the classes (`evaluate` can also do without: --allow-missing)"
                )
            warnings.warn(f"{lack}; their prompt alone stands for them", stacklevel=2)
        return found


def normalise_name(name: str) -> str:
    """Bring a class name to the form that is compared: lower case, words separated by one space."""
    text = unicodedata.normalize("NFC", re.sub(r"['’`]", "", name.casefold()))
    # Marks are kept: in many scripts they are the vowels.
    kept = (letter if letter.isalnum() or unicodedata.category(letter)[0] == "M" else " " for letter in text)
    return " ".join("".join(kept).split())


def load_descriptions(path: str | Path) -> Descriptions:
    """Read descriptions from a JSON file: this package's own kind, or {class name: [text, ...]} as CuPL's and DCLIP's.

    Raises:
        InputError: the file is missing, is no JSON, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"descriptions {str(path)!r} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"descriptions {str(path)!r} are no JSON ({error}); give a file {{class: [text]}}") from None
    return parse_descriptions(content, str(path))


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


def parse_descriptions(content: object, source: str) -> Descriptions:
    """Take what a descriptions file holds; `source` names it in errors.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(content, dict):
        raise InputError(f"{source} holds a {type(content).__name__}, not {{class: [text]}}; give such a file")
    if "schema" not in content:
        classes = _classes(content, source)
        return Descriptions(source, _guess_style(classes), classes)
    if content["schema"] != SCHEMA:
        raise InputError(f"{source} has schema {content['schema']!r}, but this version reads {SCHEMA}; upgrade crossalign")
    classes = _classes(content.get("classes"), source)
    style = content.get("style")
    if style not in (*get_args(Style), "fragments"):
        raise InputError(f"{source} has style {style!r}; write descriptors, fragments or sentences")
    if style != "descriptors":
        return Descriptions(source, "sentences" if style == "sentences" else "descriptors", classes)
    # Our own descriptors complete "which has ..."; with the verb they follow CLIP-D's grammar.
    return Descriptions(source, "descriptors", {name: tuple(f"has {t}" for t in ts) for name, ts in classes.items()})


def _classes(content: object, source: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(content, dict) or not content:
        raise InputError(f"{source} names no classes; give {{class: [text]}}")
    for name, texts in content.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{source} has for {name!r} something else than a list of texts; mend that entry")
    return {name: tuple(_tidy(texts)) for name, texts in content.items()}


def _tidy(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))


def _guess_style(classes: Mapping[str, tuple[str, ...]]) -> Style:
    texts = [text for of_class in classes.values() for text in of_class]
    whole = sum(text[-1] in ".!?" and text[0].isupper() for text in texts)
    return "sentences" if 2 * whole > len(texts) else "descriptors"
