"""Class names of the published datasets: in their folders, in the programs of papers, by other authors, in plain English."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Literal

from crossalign.errors import InputError
from crossalign.text.names import normalise_name

ClassNames = Literal["ours", "published"]
"""Names that tell all classes apart, or those of the papers' programs."""


@dataclass(frozen=True)
class ClassList:
    """C classes in the order of the published labels.

    Attributes:
        keys: as the published tree names them: "n01440764", "american_bulldog", "arena/hockey".
        names: as a person does: "tench", "American Bulldog", "hockey arena"; no two are alike.
        published: as the papers' programs do: "tench", "american bulldog", "arena"; some are alike. By default the names.
        before_descriptors: as the papers' programs do before descriptors; by default the published names.
        other_names: for each class what other authors call it in their files.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    published: tuple[str, ...] = ()
    before_descriptors: tuple[str, ...] = ()
    other_names: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "published", self.published or self.names)
        object.__setattr__(self, "before_descriptors", self.before_descriptors or self.published)
        object.__setattr__(self, "other_names", self.other_names or ((),) * len(self.keys))

    @property
    def aliases(self) -> tuple[tuple[str, ...], ...]:
        """For each class all names that files may use for it, its key first."""
        columns = zip(self.keys, self.names, self.published, self.before_descriptors, self.other_names, strict=True)
        return tuple(tuple(dict.fromkeys((*names, *others))) for *names, others in columns)

    def take(self, labels: Iterable[int]) -> ClassList:
        """Take some of the classes."""
        rows = list(labels)
        return ClassList(*(tuple(getattr(self, field.name)[row] for row in rows) for field in fields(self)))

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
    published = tuple(row["published"] or row["name"] for row in rows)
    return ClassList(
        keys=tuple(row["key"] for row in rows),
        names=tuple(row["name"] for row in rows),
        published=published,
        before_descriptors=tuple(row.get("before_descriptors") or name for row, name in zip(rows, published, strict=True)),
        other_names=tuple(tuple(filter(None, (row.get("aliases") or "").split("|"))) for row in rows),
    )
