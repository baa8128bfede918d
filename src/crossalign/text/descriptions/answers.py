"""Save the answers of an LLM to disk as they arrive, so that a killed run resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from io import RawIOBase
from pathlib import Path
from typing import Any

from crossalign.errors import InputError
from crossalign.store.files import write_atomically
from crossalign.text.descriptions import SCHEMA

_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors of reading a file that is damaged or of another kind."""

Classes = dict[str, dict[str, Any]]
"""Class name to its "texts" and the "near" classes that were shown with the question."""


class AnswerFile:
    """A descriptions file, and beside it the answers that are not in it yet, one per line.

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
        """Whether the file holds every answer, and no failure that a later run has fixed."""
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
        entry = _entry(list(texts), list(near))
        try:
            with open(self._partial, "ab", buffering=0) as file:
                start = os.fstat(file.fileno()).st_size
                head = [] if start else [{"schema": SCHEMA, "time": self.began, "settings": self.settings}]
                try:
                    _write_lines(file, [*head, {"class": name, **entry}])
                except OSError:
                    # Other answers may come yet, and must not stand behind half of this one.
                    file.truncate(start)
                    raise
        except OSError as error:
            raise InputError(f"{str(self._partial)!r} cannot be written ({error.strerror}); free or name another") from error
        self.classes[name] = entry

    def finish(self, names: Sequence[str], failures: Mapping[str, str]) -> None:
        """Write the file: the classes in their order, then those that only an earlier run was asked for."""
        order = [name for name in names if name in self.classes]
        order += [name for name in self.classes if name not in set(order)]
        near = {name: self.classes[name]["near"] for name in order if self.classes[name]["near"]}
        content: dict[str, Any] = {"schema": SCHEMA, **self.about, "time": self.began, **self.settings}
        content["failures"] = dict(failures)
        content |= {"near": near} if near else {}
        content["classes"] = {name: self.classes[name]["texts"] for name in order}
        write_atomically(self.path, to_text(content).encode())
        self._partial.unlink(missing_ok=True)

    def _read_finished(self) -> None:
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            made_with = {key: content[key] for key in self.settings}
            near = content.get("near", {})
            classes = {name: _entry(texts, near.get(name, [])) for name, texts in content["classes"].items()}
            self.began, self._failed_before = content["time"], bool(content["failures"])
        except OSError as error:
            raise InputError(f"output {str(self.path)!r} cannot be read ({error.strerror}); name another") from None
        except _NONSENSE:
            raise InputError(
                f"output {str(self.path)!r} exists and was not made by `crossalign describe`; remove it or name another"
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
        complete_lines = content[: content.rfind(b"\n") + 1]
        try:
            heads, classes = _parse(complete_lines)
        except _NONSENSE:
            raise InputError(f"{str(self._partial)!r} is damaged; remove it to begin anew") from None
        for made_with, began in reversed(heads):
            self._check(made_with, self._partial)
            self.began = began
        self.classes |= classes
        try:
            if not classes:
                self._partial.unlink()
            elif complete_lines != content:
                os.truncate(self._partial, len(complete_lines))
        except OSError as error:
            raise InputError(f"{str(self._partial)!r} cannot be written ({error.strerror}); free or name another") from None

    def _check(self, made_with: Mapping[str, Any], file: Path) -> None:
        changed = [key for key, value in self.settings.items() if made_with.get(key) != value]
        if changed:
            pairs = [(key, _short(made_with.get(key)), _short(self.settings[key])) for key in changed]
            differences = "; ".join(f"{key} {before}, now {now}" for key, before, now in pairs)
            raise InputError(
                f"{str(file)!r} was made with another {differences}; give the same again, remove it or name another --output"
            )


def _entry(texts: Any, near: Any) -> dict[str, Any]:
    if not all(isinstance(value, list) and all(isinstance(text, str) for text in value) for value in (texts, near)):
        raise TypeError("texts and near classes are lists of texts")
    return {"texts": texts, "near": near}


def _write_lines(file: RawIOBase, lines: Sequence[Mapping[str, Any]]) -> None:
    # In one piece, so that the lines of two processes do not mix.
    content = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    while content:
        content = content[file.write(content) :]
    os.fsync(file.fileno())


def _parse(content: bytes) -> tuple[list[tuple[Mapping[str, Any], str]], Classes]:
    """Part the heads (settings, time) from the classes; processes that began at once may each have written a head."""
    lines = [json.loads(line) for line in content.splitlines()]
    if lines and "settings" not in lines[0]:
        raise ValueError("the head is missing")
    heads: list[tuple[Mapping[str, Any], str]]
    heads = [(dict(line["settings"]), line["time"]) for line in lines if "settings" in line]
    return heads, {line["class"]: _entry(line["texts"], line["near"]) for line in lines if "settings" not in line}


def to_text(content: Mapping[str, Any]) -> str:
    """Lay out a descriptions file as the bundled ones are."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]} ..."
