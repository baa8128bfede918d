"""Where kept files live, and how they appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
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
    # A name of its own for each write: threads, and containers with like host names and process ids, share stores too.
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}); free or name another place") from error
    finally:
        with suppress(OSError):
            part.unlink()
