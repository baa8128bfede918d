"""Images in folders by label: hard links or copies. Nothing is moved, and no file is overwritten."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from uuid import uuid4

from crossalign.classifier import Classification
from crossalign.errors import InputError
from crossalign.features.image_cache import content_digest

REASONS = ("unsure", "other")
"""Folders of images without a label, named by the reason."""
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
"""What Windows or a path forbids in a folder's name."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for devices, with or without a suffix."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What systems answer where a file system has no hard links; Windows says EINVAL."""


class SortedFolders:
    """A folder DIR with one folder per label, into which images are linked or copied.

    Attributes:
        placed: number of images by folder, those of earlier runs included.
        new: how many of them were placed just now.
    """

    def __init__(self, root: Path, labels: Sequence[str], copy: bool = False):
        """Name the folders; they are made when they are needed.

        Args:
            root: DIR.
            labels: class names.
            copy: copy files instead of linking them.

        Raises:
            InputError: DIR is a file, or two labels would have the same folder.
        """
        if root.exists() and not root.is_dir():
            raise InputError(f"{str(root)!r} is a file; name a folder to sort into")
        self.root, self._copy = root, copy
        self._folders = {label: folder_name(label) for label in labels} | {reason: reason for reason in REASONS}
        for reason in REASONS:
            if reason in labels:
                raise InputError(f"the label {reason!r} is also the folder of images without a label; rename it")
        owners: dict[str, str] = {}
        for label, name in self._folders.items():
            if (other := owners.setdefault(name.casefold(), label)) != label:
                raise InputError(f"labels {other!r} and {label!r} would have the same folder {name!r}; rename one of them")
        self.placed: Counter[str] = Counter()
        self.new = 0

    def place(self, result: Classification) -> None:
        """Link or copy an image into the folder of its label; an image that could not be read stays where it is.

        Raises:
            InputError: the folder cannot be written, or lies on another file system than the image.
        """
        if result.error is not None or result.image is None:
            return
        key = result.label if result.label is not None else str(result.reason)
        source, folder = Path(os.path.realpath(result.image)), self.root / self._folders[key]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.new += self._place(source, folder, Path(result.image))
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EMLINK, *_NO_LINKS) and not self._copy:
                raise InputError(
                    f"{result.image!r} cannot be linked into {str(folder)!r} ({error.strerror}); copy the images instead"
                ) from None
            raise InputError(f"{str(folder)!r} cannot be written ({error.strerror}); free space or name another") from None
        self.placed[self._folders[key]] += 1

    def _place(self, source: Path, folder: Path, name: Path) -> bool:
        """Take the first free name; False if the image is there already."""
        for number in count(1):
            target = folder / (name.name if number == 1 else f"{name.stem} ({number}){name.suffix}")
            if os.path.lexists(target):
                if _is_same(source, target):
                    return False
                continue
            try:
                self._make(source, target)
            except FileExistsError:  # Another process was faster.
                continue
            return True
        raise AssertionError("there is always a free name")

    def _make(self, source: Path, target: Path) -> None:
        if not self._copy:
            os.link(source, target)
            return
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.part")
        try:
            shutil.copy2(source, temporary)
            os.link(temporary, target)  # Unlike a rename, it never replaces a file.
        except OSError as error:
            if error.errno not in _NO_LINKS or target.exists():
                raise
            os.rename(temporary, target)  # A file system without links.
        finally:
            temporary.unlink(missing_ok=True)

    def __str__(self) -> str:
        """Say what was done."""
        total = sum(self.placed.values())
        parts = ", ".join(f"{name} {number}" for name, number in self.placed.most_common())
        what = "copied" if self._copy else "linked"
        before = f"; {total - self.new} were there before" if total > self.new else ""
        return f"{self.new} images {what} into {str(self.root)!r} ({parts or 'none'}){before}"


def folder_name(label: str) -> str:
    """Turn a label into the name of a folder that every system takes."""
    name = _FORBIDDEN.sub("_", label).strip().rstrip(". ")
    return f"_{name}" if not name or name.startswith(".") or _RESERVED.match(name) else name


def _is_same(source: Path, target: Path) -> bool:
    try:
        if os.path.samefile(source, target):
            return True
        return source.stat().st_size == target.stat().st_size and content_digest(source) == content_digest(target)
    except OSError:
        return False
