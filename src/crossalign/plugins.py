"""Methods, encoders and datasets that other installed packages add by entry points; each is imported when it is used."""

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
    """The plug-ins of one kind, by name.

    A plug-in cannot replace a name of crossalign. If two packages add the same name, neither can be used.
    """

    def __init__(self, group: str, kind: str, own: Callable[[], Collection[str]], check: Callable[[str, Any], Thing]):
        """Make the plug-ins of a group of entry points available.

        Args:
            group: the group, such as "crossalign.methods"; the name of an entry point is the name of the plug-in.
            kind: a word for one plug-in, such as "method", for errors.
            own: returns the names that crossalign itself defines.
            check: (name, loaded object) to the plug-in; raises InputError if the object cannot be one.
        """
        self._group, self._kind, self._own, self._check = group, kind, own, check
        self._loaded: dict[str, Thing] = {}

    def __contains__(self, name: object) -> bool:
        """Whether a package adds this name and crossalign does not define it; imports nothing."""
        return name in _claims(self._group) and name not in self._own()

    def __getitem__(self, name: str) -> Thing:
        """Import a plug-in.

        Raises:
            KeyError: no package adds the name.
            InputError: two packages add it, or the plug-in cannot be used.
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
        """Import all plug-ins, by name; those that cannot be used are left out with a warning."""
        plugins = {}
        for name in sorted(_claims(self._group)):
            try:
                if name in self:
                    plugins[name] = self[name]
                else:
                    self.refuse(name)
            except InputError as error:
                _warn(str(error))
        return plugins

    def refuse(self, name: str) -> None:
        """Warn if a package adds a name that crossalign itself defines."""
        for entry in _claims(self._group).get(name, ()) if name in self._own() else ():
            _warn(
                f"package {package_of(entry)} adds a {self._kind} called {name!r}, but {OURS} has one of that name and "
                "uses its own; rename the package's"
            )

    def package(self, name: str) -> str:
        """Name of the package that defines `name`."""
        return package_of(_claims(self._group)[name][0]) if name in self else OURS

    def _import(self, entry: EntryPoint) -> Thing:
        try:
            return self._check(entry.name, entry.load())
        except (Exception, SystemExit) as error:
            # An import of foreign code can fail with any exception.
            reason = " ".join(str(error).split())
            if not isinstance(error, InputError):
                reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
            raise InputError(
                f"{self._kind} {entry.name!r} of package {package_of(entry)} cannot be used ({reason}); "
                "update or uninstall that package"
            ) from error


class Extended(Mapping[str, Thing]):
    """Crossalign's own entries by name, followed by the plug-ins.

    A look-up imports only the plug-in of that name. Iteration imports all plug-ins and leaves out those that cannot be used.
    """

    def __init__(self, group: str, kind: str, own: Mapping[str, Thing], check: Callable[[str, Any], Thing]):
        self._own = own
        self._added = Plugins(group, kind, lambda: own, check)

    def __getitem__(self, name: str) -> Thing:
        """Return an entry; raises as `Plugins` does."""
        self._added.refuse(name)
        return self._own[name] if name in self._own else self._added[name]

    def __contains__(self, name: object) -> bool:
        """Whether the name is known; imports nothing."""
        return name in self._own or name in self._added

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter([*self._own, *self._added.usable()])

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._own) + len(self._added.usable())

    def package(self, name: str) -> str:
        """Name of the package that defines `name`."""
        return self._added.package(name)


def package_of(entry: EntryPoint) -> str:
    """Name of an entry point's package; the name of its module if the metadata have none."""
    name: str | None = getattr(entry.dist, "name", None)
    return name or entry.module.split(".")[0]


@lru_cache
def _claims(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points of a group, by name; several packages may add one name."""
    claims: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        if entry not in claims.get(entry.name, ()):
            claims[entry.name] = (*claims.get(entry.name, ()), entry)
    return claims


def _warn(sentence: str) -> None:
    # stacklevel=1: Python shows a warning once per place, and there are many callers.
    warnings.warn(sentence, stacklevel=1)
