"""Where kept files live, and how they appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from platformdirs import user_cache_path

from crossalign.errors import InputError


def cache_root(folder: str | Path | None = None) -> Path:
    """Say where features and exported models live: the given folder, else $CROSSALIGN_CACHE, else the user's cache."""
    return Path(folder or os.environ.get("CROSSALIGN_CACHE") or user_cache_path("crossalign"))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, even if the process or the machine dies meanwhile.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    with writing_whole(path) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to; it appears at the path when the block ends, as whole as `write_whole` makes it.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    # A name of its own for each write: threads, and containers with like host names and process ids, share stores too.
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}); free or name another place") from error
    finally:
        with suppress(OSError):
            part.unlink()


def remove_parts(path: Path) -> None:
    """Remove what killed processes left of a file half written; nobody may be writing it."""
    for part in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 32}.part"):
        with suppress(OSError):
            part.unlink()


def sync_folder(folder: Path) -> None:
    """See to it that names of files that are new in a folder outlive a power cut, where the system can do so."""
    if os.name == "nt":  # Windows opens no folders; there NTFS keeps a journal of names by itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
