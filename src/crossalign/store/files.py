"""Where cached files live, and atomic file writes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from platformdirs import user_cache_path

from crossalign.errors import InputError

_REPLACE_TRIES = 40 if os.name == "nt" else 1
"""Windows refuses to replace a file while anybody reads it."""
_REPLACE_PAUSE = 0.05  # seconds


def cache_root(folder: str | Path | None = None) -> Path:
    """Return the cache folder: the given folder, else $CROSSALIGN_CACHE, else the user's cache folder."""
    return Path(folder or os.environ.get("CROSSALIGN_CACHE") or user_cache_path("crossalign"))


def write_atomically(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file atomically: if the process or the machine stops, the file has either its old or its new content.

    Args:
        path: of the file.
        content: its new content.
        durable: wait for the disk; otherwise a power cut, but no killed process, may leave a damaged file.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    with atomic_file(path, durable) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
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
            if durable:
                file.flush()
                os.fsync(file.fileno())
        _replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be written ({error.strerror}); free disk space or choose another path"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _replace(source: Path, target: Path) -> None:
    for _ in range(_REPLACE_TRIES - 1):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(_REPLACE_PAUSE)
    os.replace(source, target)


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
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Some network file systems cannot flush a folder.
            raise
    finally:
        os.close(descriptor)
