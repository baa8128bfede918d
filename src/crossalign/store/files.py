"""Where cached files live, and atomic file writes."""

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
    """Return the cache folder: the given folder, else $CROSSALIGN_CACHE, else the user's cache folder."""
    return Path(folder or os.environ.get("CROSSALIGN_CACHE") or user_cache_path("crossalign"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: if the process or the machine stops, the file has either its old or its new content.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, and rename it to `path` when the block ends; atomic like `write_atomically`.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    # A random name, because threads share a store, and so do containers with equal host names and process ids.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be written ({error.strerror}); free disk space or choose another path"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_parts(path: Path) -> None:
    """Remove the temporary files that killed processes left beside `path`; no process may be writing `path` now."""
    for temporary in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 32}.part"):
        with suppress(OSError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that the names of new files survive a power failure, where the system can do this."""
    if os.name == "nt":  # Windows cannot open folders; NTFS writes file names to its own journal.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
