"""The classes of the published datasets: how their trees name them, and how a person does."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from crossalign.descriptions import normalise_name
from crossalign.errors import InputError


@dataclass(frozen=True)
class ClassList:
    """C classes in the order of the published labels.

    Attributes:
        keys: as the published tree names them: "n01440764", "american_bulldog", "arena/hockey".
        names: as a person does: "tench", "American Bulldog", "hockey arena"; no two are alike.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def aliases(self) -> tuple[tuple[str, ...], ...]:
        """For each class the other names that files may use for it."""
        return tuple(zip(self.keys, self.published_names, strict=True))

    @property
    def published_names(self) -> tuple[str, ...]:
        """The names as the papers' programs derive them: the key's words, without what stands behind a slash."""
        return tuple(key.split("/")[0].replace("_", " ") for key in self.keys)

    def find(self, folders: Sequence[str]) -> dict[str, int]:
        """Match folders with classes by key or name, whatever their case, hyphens and underscores.

        Raises:
            InputError: names every folder that matches no class.
        """
        known = self._known
        unknown = [folder for folder in folders if normalise_name(folder) not in known]
        if unknown:
            raise InputError(
                f"{len(unknown)} class folders match none of the {len(self.keys)} class names: {', '.join(unknown)}; "
                "rename or remove them"
            )
        return {folder: known[normalise_name(folder)] for folder in folders}

    @property
    def _known(self) -> Mapping[str, int]:
        by_name = {normalise_name(name): label for label, name in enumerate(self.names)}
        return by_name | {normalise_name(key): label for label, key in enumerate(self.keys)}


@lru_cache
def class_list(name: str) -> ClassList:
    """Read a bundled class list, such as "imagenet"."""
    text = (resources.files("crossalign.datasets") / "classes" / f"{name}.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return ClassList(tuple(row["key"] for row in rows), tuple(row["name"] for row in rows))
