"""What other installed packages add, found by their entry points; nothing of theirs is imported before it is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from crossalign.errors import InputError

Thing = TypeVar("Thing")
OURS = "crossalign"


class Plugins(Generic[Thing]):
    """The things of one kind that packages add.

    A name that is taken is refused: crossalign's own stands, and of two packages neither gets it.
    """

    def __init__(self, group: str, kind: str, taken: Callable[[], Collection[str]], check: Callable[[str, Any], Thing]):
        """Look into a group of entry points.

        Args:
            group: such as "crossalign.methods"; the name of each entry point is the name of the thing.
            kind: what one of them is called, such as "method".
            taken: gives the names that crossalign has itself.
            check: takes a name and what its entry point leads to, and returns the thing; InputError says what is wrong.
        """
        self._group, self._kind, self._taken, self._check = group, kind, taken, check
        self._loaded: dict[str, Thing] = {}

    def __contains__(self, name: object) -> bool:
        """Whether a package claims this name and may; nothing is imported."""
        return name in _claims(self._group) and name not in self._taken()

    def __getitem__(self, name: str) -> Thing:
        """Import one.

        Raises:
            KeyError: no package claims the name.
            InputError: two packages do, or what the package adds cannot be used.
        """
        if name not in self._loaded:
            if name not in self:
                raise KeyError(name)
            first, *others = _claims(self._group)[name]
            if others:
                raise InputError(
                    f"packages {package_of(first)} and {package_of(others[0])} both add a {self._kind} called {name!r}; "
                    "uninstall one of them"
                )
            self._loaded[name] = self._import(first)
        return self._loaded[name]

    def usable(self) -> dict[str, Thing]:
        """Import all, by name; a warning names each that cannot be used, and the others are not touched by it."""
        found = {}
        for name in sorted(_claims(self._group)):
            try:
                if name in self:
                    found[name] = self[name]
                else:
                    self.refuse(name)
            except InputError as error:
                _warn(str(error))
        return found

    def refuse(self, name: str) -> None:
        """Warn if a package claims a name that crossalign has itself."""
        for entry in _claims(self._group).get(name, ()) if name in self._taken() else ():
            _warn(
                f"package {package_of(entry)} adds a {self._kind} called {name!r}, but {OURS} has one of that name, which "
                "stays; rename the package's"
            )

    def package(self, name: str) -> str:
        """Name the package that a thing came from."""
        return package_of(_claims(self._group)[name][0]) if name in self else OURS

    def _import(self, entry: EntryPoint) -> Thing:
        try:
            return self._check(entry.name, entry.load())
        except (Exception, SystemExit) as error:
            # A stranger's module can fail in every way while it is imported.
            reason = " ".join(str(error).split())
            if not isinstance(error, InputError):
                reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
            raise InputError(
                f"{self._kind} {entry.name!r} of package {package_of(entry)} cannot be used ({reason}); "
                "update or uninstall that package"
            ) from error


class Extended(Mapping[str, Thing]):
    """Things by name: crossalign's own first, then those that packages add.

    Asking for a name imports what that name needs and no more; going through all of them leaves out what cannot be used.
    """

    def __init__(self, group: str, kind: str, own: Mapping[str, Thing], check: Callable[[str, Any], Thing]):
        self._own = own
        self._added = Plugins(group, kind, lambda: own, check)

    def __getitem__(self, name: str) -> Thing:
        """Look one up; see `Plugins`."""
        self._added.refuse(name)
        return self._own[name] if name in self._own else self._added[name]

    def __contains__(self, name: object) -> bool:
        """Whether the name is known; nothing is imported."""
        return name in self._own or name in self._added

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter([*self._own, *self._added.usable()])

    def __len__(self) -> int:
        """Count them."""
        return len(self._own) + len(self._added.usable())

    def package(self, name: str) -> str:
        """Name the package that a thing came from."""
        return self._added.package(name)


def package_of(entry: EntryPoint) -> str:
    """Name the package of an entry point; if its metadata do not, then by its module."""
    name: str | None = getattr(entry.dist, "name", None)
    return name or entry.module.split(".")[0]


@lru_cache
def _claims(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """All entry points of a group, by name."""
    claims: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        if entry not in claims.get(entry.name, ()):
            claims[entry.name] = (*claims.get(entry.name, ()), entry)
    return claims


def _warn(sentence: str) -> None:
    # Seen from here, not from the many callers, so that Python shows each sentence once.
    warnings.warn(sentence, stacklevel=1)
