"""The classes of the published datasets: how their trees name them, and how a person does."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from crossalign.errors import InputError
from crossalign.text.descriptions import normalise_name


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
        return tuple(zip(self.keys, self.published_names, self.names, strict=True))

    @property
    def published_names(self) -> tuple[str, ...]:
        """The names as the papers' programs derive them: the key's words, without what stands behind a slash."""
        return tuple(key.split("/")[0].replace("_", " ") for key in self.keys)

    def take(self, labels: Iterable[int]) -> ClassList:
        """Take some of the classes."""
        rows = list(labels)
        return ClassList(tuple(self.keys[row] for row in rows), tuple(self.names[row] for row in rows))

    def find(self, folders: Sequence[str]) -> dict[str, int]:
        """Match folders with classes by key or name, whatever their case, hyphens and underscores.

        Raises:
            LookupError: no folder matches a class: this is another dataset's tree, or none.
            InputError: names every folder that matches no class.
        """
        known = self._known
        unknown = [folder for folder in folders if normalise_name(folder) not in known]
        if unknown and len(unknown) == len(folders):
            raise LookupError(f"none of its {len(self.keys)} classes is called {' or '.join(unknown)}")
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
    """Read a bundled class list, such as "imagenet".

    Raises:
        InputError: there is none of that name.
    """
    files = {file.name.removesuffix(".csv"): file for file in (resources.files(__package__) / "classes").iterdir()}
    if name not in files:
        raise InputError(f"no class list {name!r} is bundled; bundled are {', '.join(sorted(files))}")
    rows = list(csv.DictReader(files[name].read_text(encoding="utf-8").splitlines()))
    return ClassList(tuple(row["key"] for row in rows), tuple(row["name"] for row in rows))
