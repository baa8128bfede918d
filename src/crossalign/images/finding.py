"""The images in a folder: by suffix, and by content where a suffix says nothing; one rule for all who search folders.

Hidden files and what archives, file managers and storage systems leave are passed over and counted. They are read if they
are named themselves.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from crossalign.errors import InputError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
OTHER_SUFFIXES = (
    *(".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".pdf", ".svg", ".py", ".log"),
    *(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".parquet", ".npy", ".npz", ".mat", ".pt", ".safetensors", ".db"),
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".doc", ".docx", ".xls", ".xlsx", ".aae", ".xmp"),
)
"""Suffixes of files that are not opened to see whether they are images."""
LEFTOVERS = (
    *("__MACOSX", "PaxHeader", "PaxHeaders", "PaxHeaders.*", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"),
    *("System Volume Information", "Thumbs.db", "desktop.ini", ".thumb*", ".Trash*", ".AppleDouble", ".Spotlight-*"),
)
"""Names, as patterns, of what archives, Windows and network storage leave beside a user's files."""
TAR_SUFFIXES, TABLE_SUFFIXES = (".tar", ".tar.gz", ".tgz"), (".parquet",)
"""Suffixes of files that hold many images."""
FIRST_BYTES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*", b"\xff\x4f\xff\x51"),
    *(b"P4\n", b"P5\n", b"P6\n", b"P1\n", b"P2\n", b"P3\n", b"\x00\x00\x00\x0cjP  "),
)
"""How files of images begin, but for those that `looks_like_image` knows by a later byte."""


@dataclass
class PassedOver:
    """What a search left out.

    Attributes:
        hidden, leftovers: how many files and folders, each folder counted once.
        others: names of files that are no images.
    """

    hidden: int = 0
    leftovers: int = 0
    others: list[str] = field(default_factory=list)

    def add(self, other: PassedOver) -> None:
        """Count what another search left out, too."""
        self.hidden += other.hidden
        self.leftovers += other.leftovers
        self.others += other.others

    def __str__(self) -> str:
        """Say it in a line; empty if nothing was left out."""
        parts = []
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.leftovers:
            parts.append(f"{self.leftovers} left by archives or systems")
        if self.others:
            kinds = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in self.others)
            shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
            parts.append(f"{len(self.others)} not images ({shown}{', ...' if len(kinds) > 4 else ''})")
        return f"passed over: {', '.join(parts)}" if parts else ""


def images_in(folder: Path, passed: PassedOver, *, packed: bool = False) -> list[Path]:
    """List the images under a folder and the folders that it links to, in order of their paths.

    Args:
        folder: searched, whatever its own name is.
        passed: counts what is left out.
        packed: list tars and tables, too.

    Raises:
        InputError: a folder cannot be read.
    """
    return sorted(_walk(folder, passed, packed, frozenset()))


def _walk(folder: Path, passed: PassedOver, packed: bool, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        about = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be read ({error.strerror}); check it or name another") from None
    here = (about.st_dev, about.st_ino)
    if here in above:  # A link to a folder that it lies in.
        return
    for entry in entries:
        if not is_wanted(entry.name, passed):
            continue
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, passed, packed, above | {here})
        elif entry.is_file() and (is_image(path) or (packed and is_packed(entry.name))):
            yield path
        else:
            passed.others.append(entry.name)


def is_wanted(name: str, passed: PassedOver) -> bool:
    """Tell whether a file or folder of that name is the user's own; count it if it is not."""
    hidden, leftover = is_hidden(name), is_leftover(name)
    passed.leftovers += leftover
    passed.hidden += hidden and not leftover
    return not (hidden or leftover)


def is_hidden(name: str) -> bool:
    """Tell whether a name says that its file or folder is not shown."""
    return name.startswith(".") and name not in (".", "..")


def is_leftover(name: str) -> bool:
    """Tell whether a name is one that archives or systems give; "._a.jpg" is what macOS puts beside a.jpg."""
    return name.startswith("._") or any(fnmatch(name.casefold(), pattern.casefold()) for pattern in LEFTOVERS)


def parts_wanted(parts: Iterable[str], passed: PassedOver) -> bool:
    """Tell whether all parts of a path below the searched folder are the user's own; count the path if one is not."""
    return all(is_wanted(part, passed) for part in parts)


def is_packed(name: str) -> bool:
    """Tell by its suffix whether a file is a tar or a table of images."""
    return name.lower().endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES))


def is_image(path: Path) -> bool:
    """Tell by its suffix whether a file is an image, and by its first bytes where the suffix says nothing."""
    by_suffix = suffix_says(path.name)
    if by_suffix is not None:
        return by_suffix
    try:
        with open(path, "rb") as file:
            return looks_like_image(file.read(16))
    except OSError:
        return False


def suffix_says(name: str) -> bool | None:
    """Tell by its suffix whether a file is an image; None if the suffix says nothing."""
    suffix = os.path.splitext(name)[1].lower()
    return True if suffix in IMAGE_SUFFIXES else False if suffix in OTHER_SUFFIXES else None


def looks_like_image(start: bytes) -> bool:
    """Tell by its first 16 bytes whether a file is an image of a common format."""
    return (
        start.startswith(FIRST_BYTES)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"heim", b"hevc", b"mif1"))
    )
