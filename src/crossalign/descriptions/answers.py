"""Descriptions in the making: each class on disk as it arrives, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from crossalign.descriptions import SCHEMA
from crossalign.errors import InputError

Classes = dict[str, dict[str, Any]]
"""Class name to its "texts" and the "near" classes that were shown with the question."""


class AnswerFile:
    """A descriptions file, and beside it the answers that are not in it yet, one a line.

    Attributes:
        path: of the file.
        settings: all that the answers depend on, apart from the classes; it stands in the file.
        about: what else stands in the file.
        classes: what is answered.
        began: date and time of the first run's beginning.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], about: Mapping[str, Any]):
        """Take up what an earlier run with the same settings left.

        Raises:
            InputError: a file of that name was made otherwise, or cannot be read.
        """
        self.path, self.settings, self.about = path, dict(settings), dict(about)
        self.began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.classes: Classes = {}
        self._failed_before = False
        self._partial = path.with_name(f"{path.name}.partial")
        self._read_finished()
        self._read_partial()

    @property
    def finished(self) -> bool:
        """Whether the file holds every answer, and no failure that has been mended since."""
        return self.path.exists() and not self._partial.exists() and not self._failed_before

    def lacking(self, names: Sequence[str], near: Mapping[str, Sequence[str]]) -> list[str]:
        """Name the classes that are still to be asked about, or anew since other classes are near them now."""
        known = {name: entry["near"] for name, entry in self.classes.items()}
        return [name for name in names if known.get(name) != list(near.get(name, ()))]

    def add(self, name: str, texts: Iterable[str], near: Iterable[str] = ()) -> None:
        """Save a class.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        entry = {"texts": list(texts), "near": list(near)}
        lines: list[dict[str, Any]] = [{"class": name, **entry}]
        if not self._partial.exists():
            lines.insert(0, {"schema": SCHEMA, "time": self.began, "settings": self.settings})
        try:
            with open(self._partial, "ab") as file:
                file.write(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{str(self._partial)!r} cannot be written ({error.strerror}); free or name another") from error
        self.classes[name] = entry

    def finish(self, names: Sequence[str], failures: Mapping[str, str]) -> None:
        """Write the file: the classes in their order, then those that only an earlier run was asked for."""
        from crossalign.files import write_whole

        order = [name for name in names if name in self.classes]
        order += [name for name in self.classes if name not in set(order)]
        near = {name: self.classes[name]["near"] for name in order if self.classes[name]["near"]}
        content: dict[str, Any] = {"schema": SCHEMA, **self.about, "time": self.began, **self.settings}
        content["failures"] = dict(failures)
        content |= {"near": near} if near else {}
        content["classes"] = {name: self.classes[name]["texts"] for name in order}
        write_whole(self.path, to_text(content).encode())
        self._partial.unlink(missing_ok=True)

    def _read_finished(self) -> None:
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            made_with = {key: content[key] for key in self.settings}
            near = content.get("near", {})
            classes = {name: {"texts": texts, "near": near.get(name, [])} for name, texts in content["classes"].items()}
            self.began, self._failed_before = content["time"], bool(content["failures"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"output {str(self.path)!r} is there already and was not made by this verb; remove it or name another"
            ) from None
        self._check(made_with, self.path)
        self.classes = classes

    def _read_partial(self) -> None:
        try:
            content = self._partial.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{str(self._partial)!r} cannot be read ({error.strerror}); remove it") from None
        # A kill can leave the last line without its end; what is there of it is dropped, and asked for again.
        whole = content[: content.rfind(b"\n") + 1]
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()] or [None]
            if first is not None:
                self._check(first["settings"], self._partial)
                self.began = first["time"]
                self.classes |= {line["class"]: {"texts": line["texts"], "near": line["near"]} for line in lines}
            if not lines:
                self._partial.unlink()
            elif whole != content:
                os.truncate(self._partial, len(whole))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{str(self._partial)!r} is damaged; remove it to begin anew") from None

    def _check(self, made_with: Mapping[str, Any], file: Path) -> None:
        changed = [key for key, value in self.settings.items() if made_with.get(key) != value]
        if changed:
            there = "; ".join(f"{key} {_short(made_with.get(key))}, now {_short(self.settings[key])}" for key in changed)
            raise InputError(
                f"{str(file)!r} was made with another {there}; give the same again, remove it or name another --output"
            )


def to_text(content: Mapping[str, Any]) -> str:
    """Lay out a descriptions file as the bundled ones are."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]} ..."
