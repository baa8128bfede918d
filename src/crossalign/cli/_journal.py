"""What is labelled so far: a line a picture, beside the file that there will be, so that a killed run can go on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

import click

from crossalign.classifier import Classification, Prediction
from crossalign.errors import InputError
from crossalign.reports.formats import first_change
from crossalign.store.files import sync_folder

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

SYNC_EVERY = 1.0
"""Seconds between two calls that bring the journal to the disk. What is written outlives the process without them; they are
for a power cut, and one a picture would cost more time on a spinning disk than a fast machine takes to label it."""

_BEGINNING = b'{"crossalign version"'

Stamp = list[int] | None
"""Size and time of change (nanoseconds) of a picture; None if there is none."""


class Journal:
    """Results on disk as they come. The first line holds what decides them, each other line a result and its `Stamp`.

    Attributes:
        path: of the journal.
        failed: how many of its pictures could not be read.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        """Open a journal, or begin one, for this process alone.

        Args:
            path: of the journal.
            settings: name to plain JSON, beginning with "crossalign version"; all that decides the results.

        Raises:
            InputError: another process has it open, or it cannot be written.
        """
        self.path, self.failed = path, 0
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._synced = time.monotonic()
        with self._in_words():
            self._file = _opened(path)

    def take_up(self, pictures: Sequence[str]) -> int:
        """Find what an earlier run left, and drop what a kill left of a line and what follows a picture that has changed.

        Args:
            pictures: all that will be in the journal, in order.

        Returns:
            How many of the first pictures are in it.

        Raises:
            InputError: it is no journal, or one of other settings or pictures.
        """
        with self._in_words(), open(self.path, "rb") as lines:
            first = lines.readline().rstrip(b"\0")  # Zeros are what a power cut leaves of what was not synced.
            if first[: len(_BEGINNING)] != _BEGINNING[: len(first)]:
                raise InputError(f"{str(self.path)!r} is no journal of labels; move it, or name another --output")
            if not first.endswith(b"\n"):  # New, or its maker was killed at once.
                self._begin()
                return 0
            self._check(first)
            found, failed, end = 0, 0, len(first)
            for result, stamp, length in _entries(lines):
                self._check_picture(result, pictures, found)
                if stamp != stamp_of(pictures[found]):
                    click.echo(
                        f"{pictures[found]!r} has changed since it was labelled; it and what follows is done anew", err=True
                    )
                    break
                found, failed, end = found + 1, failed + (result.error is not None), end + length
            self.failed = failed
            self._file.truncate(end)
            return found

    def add(self, result: Classification, stamp: Stamp) -> None:
        """Write down the next picture's result, given the stamp that the picture had before it was read.

        Raises:
            InputError: the disk is full, or the folder is gone.
        """
        with self._in_words():
            self._append({**asdict(result), "stamp": stamp})
        self.failed += result.error is not None
        if time.monotonic() - self._synced >= SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Make sure that a power cut leaves what was written, and that it lies where it is looked for.

        Raises:
            InputError: the disk is full, or the folder is gone.
        """
        with self._in_words():
            os.fsync(self._file.fileno())
        # The system lets a process write on into a file that was removed.
        if not _lies_at(self.path, self._file):
            raise InputError(
                f"journal {str(self.path)!r} is gone from its folder; bring it back and run the same command to go on"
            )
        self._synced = time.monotonic()

    def results(self, count: int) -> Iterator[Classification]:
        """Read all results again, one at a time.

        Raises:
            InputError: there are not so many whole ones.
        """
        found = 0
        with self._in_words(), open(self.path, "rb") as lines:
            lines.readline()
            for result, *_ in _entries(lines):
                found += 1
                yield result
        if found != count:
            raise InputError(f"journal {str(self.path)!r} was changed while it was in use; run the same command to mend it")

    def remove(self) -> None:
        """Remove it once its results are elsewhere."""
        with self._in_words():
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes have it."""
        self._file.close()

    def _begin(self) -> None:
        self._file.truncate(0)
        self._append(self._settings)
        os.fsync(self._file.fileno())
        sync_folder(self.path.parent)

    def _append(self, content: Mapping[str, Any]) -> None:
        # In ASCII, which holds any file name there is.
        line = json.dumps(content).encode() + b"\n"
        while line:  # A disk that fills up takes a part of it.
            line = line[self._file.write(line) :]

    def _check(self, first: bytes) -> None:
        if name := first_change(self._settings, first):
            raise InputError(
                f"journal {str(self.path)!r} was begun with another {name}; "
                "give the command that began it, remove the journal, or name another --output"
            )

    def _check_picture(self, result: Classification, pictures: Sequence[str], number: int) -> None:
        if number >= len(pictures) or pictures[number] != result.image:
            now = repr(pictures[number]) if number < len(pictures) else "nothing"
            raise InputError(
                f"journal {str(self.path)!r} is of other pictures, since number {number + 1:,} was {result.image!r} and is "
                f"{now} now; give the pictures that it began with, remove the journal, or name another --output"
            )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"journal {str(self.path)!r} cannot be written ({error.strerror}); what it holds is kept: "
                "mend that and run the same command again to go on"
            ) from error


def stamp_of(picture: str) -> Stamp:
    """Say what tells that a file was changed."""
    try:
        status = os.stat(picture)
    except (OSError, ValueError):  # A name with a zero byte is a wrong value.
        return None
    return [status.st_size, status.st_mtime_ns]


def _opened(path: Path) -> FileIO:
    while True:
        file = open(path, "ab", buffering=0)  # noqa: SIM115
        try:
            if fcntl is not None:
                # Of the file, not of the process id: it ends with the process, however that ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(
                f"another process is at work on journal {str(path)!r}; wait for it, or name another --output"
            ) from None
        except OSError:  # A file system without locks.
            pass
        if _lies_at(path, file):
            return file
        file.close()  # Another process was done with it between the two calls.


def _lies_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


def _entries(lines: Iterable[bytes]) -> Iterator[tuple[Classification, Stamp, int]]:
    """Read results, stamps and the lengths of their lines, up to a line that a kill or a power cut left in parts."""
    for line in lines:
        if not line.endswith(b"\n"):
            return
        try:
            content = json.loads(line)
            stamp = content.pop("stamp")
            found = tuple(Prediction(**one) for one in content.pop("predictions"))
            result = Classification(predictions=found, **content)
        except (ValueError, LookupError, TypeError, AttributeError):
            return
        yield result, stamp, len(line)
