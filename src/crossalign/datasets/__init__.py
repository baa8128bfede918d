"""Labelled images: a published dataset or a folder to paths, labels and class names; one module per layout."""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, get_args

from crossalign.datasets import layouts
from crossalign.datasets.class_lists import ClassList as ClassList
from crossalign.datasets.class_lists import ClassNames as ClassNames
from crossalign.datasets.class_lists import class_list
from crossalign.datasets.configs import DATASETS, Config
from crossalign.errors import InputError
from crossalign.images.finding import PassedOver, images_in, is_wanted

_FINGERPRINT_BYTES = 4096
_UNCOMPRESSED = (".bmp", ".tif", ".tiff", ".avif", ".heic")


class Tree(NamedTuple):
    """What a layout module reads: N images and the label of each among C classes.

    Attributes:
        paths, labels, classes: N files, N indices of classes, and the C classes.
        passed_over: a line that says what was left out of the folders, or nothing.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: ClassList
    passed_over: str = ""


@dataclass(frozen=True)
class ImageDataset:
    """N labelled images of C classes.

    Attributes:
        name: of the dataset.
        root: the folder that was given.
        paths: N files.
        labels: N indices of classes.
        class_names: C class names.
        aliases: for each class other names, under which its descriptions may be filed.
        indices: N positions in the full dataset; each fixes the boxes of its image, also in a part of the dataset.
        descriptor_names: the C class names that stand before descriptors, if those are others.
        passed_over: a line that says what was left out of the folders, or nothing.
    """

    name: str
    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    indices: tuple[int, ...]
    descriptor_names: tuple[str, ...] = ()
    passed_over: str = ""

    @cached_property
    def file_fingerprints(self) -> tuple[bytes, ...]:
        """N digests, each of the size and both ends of an image file.

        Raises:
            InputError: an image that the dataset lists is missing.
        """
        with ThreadPoolExecutor(8) as pool:
            return tuple(pool.map(_fingerprint, self.paths))

    @cached_property
    def images_fingerprint(self) -> str:
        """Hex digest of the names, positions and `file_fingerprints` of all images; the same on every machine."""
        hasher = hashlib.blake2b(digest_size=16)
        for path, index, content in zip(self.paths, self.indices, self.file_fingerprints, strict=True):
            place = _relative(path, self.root).as_posix()
            hasher.update(f"{place}\0{index}\0".encode("utf-8", "surrogateescape") + content)
        return hasher.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of images and labels."""
        return hashlib.blake2b(f"{self.images_fingerprint}{self.labels}".encode(), digest_size=16).hexdigest()

    def limit(self, count: int) -> ImageDataset:
        """Take `count` images, spread evenly over the dataset; each keeps its boxes."""
        total = len(self.paths)
        rows = [i * total // count for i in range(count)] if count < total else range(total)
        return replace(
            self,
            paths=tuple(self.paths[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
            indices=tuple(self.indices[row] for row in rows),
        )


def load_dataset(
    config: Config, data_path: str | Path | None = None, *, download: bool = False, names: ClassNames = "ours"
) -> ImageDataset:
    """Read the list of a dataset's images; no image is opened.

    Args:
        config: from `load_config`.
        data_path: the dataset's folder; the config's if None.
        download: fetch it first, where torchvision can.
        names: "ours" tells all classes apart and spells their names; "published" takes the names of the papers' programs,
            even where classes share one. A dataset whose folders are its classes has one list of names.

    Raises:
        InputError: the tree is missing or not as published, a class folder matches no class, it cannot be fetched, or
            `names` is something else.
    """
    if names not in get_args(ClassNames):
        raise InputError(f"names is {names!r}, but must be one of {', '.join(get_args(ClassNames))}")
    if not (data_path or config.data_path):
        raise InputError(f"no folder was given for {config.name}; give it with --data-path")
    root = Path(data_path or config.data_path)
    if download:
        _download(config, root)
    read = _layout(config)
    try:
        exists = root.exists()
    except OSError as error:
        raise InputError(f"the folder {str(root)!r} of {config.name} cannot be read ({error.strerror})") from None
    if not exists:
        raise InputError(f"the folder {str(root)!r} of {config.name} does not exist; {_expected(config)}")
    try:
        tree = read(root, config)
    except InputError:
        raise
    except Exception as error:
        # Lists, tables and .mat files that are missing, truncated or something else fail in many types.
        reason = " ".join(str(error).split())
        raise InputError(f"{str(root)!r} is not the tree of {config.name} ({reason}); {_expected(config)}") from error
    if not tree.paths:
        raise InputError(f"{str(root)!r} holds no images of {config.name}; {_expected(config)}")
    classes = tree.classes
    shown = classes.published if names == "published" else classes.names
    if repeats := len(shown) - len(set(shown)):
        warnings.warn(f"{repeats} class names of {config.name} repeat others; these classes can never win", stacklevel=2)
    return ImageDataset(
        config.name,
        root,
        tuple(tree.paths),
        tuple(tree.labels),
        tuple(shown),
        classes.aliases,
        tuple(range(len(tree.paths))),
        classes.before_descriptors if names == "published" else (),
        tree.passed_over,
    )


def find_tree(root: Path, config: Config) -> Path:
    """Step into the first of the config's subfolders that exists, if any does."""
    return next((root / folder for folder in config.subfolders if (root / folder).exists()), root)


def classes_of(config: Config) -> ClassList:
    """The config's bundled class list."""
    return class_list(config.classes)


def class_images(folder: Path, passed: PassedOver | None = None) -> list[Path]:
    """List the images under a class folder, in order of their paths.

    Args:
        folder: searched, with the folders that it links to.
        passed: counts what is left out: hidden files, what archives leave, and files that are no images.

    Raises:
        InputError: there are none, or a folder cannot be read.
    """
    passed = PassedOver() if passed is None else passed
    before = len(passed.others)
    images = images_in(folder, passed)
    if not images:
        names = passed.others[before:]
        why = f" (its files are no images: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
        raise InputError(f"class folder {str(folder)!r} holds no images{why}; fill or remove it")
    return images


def images_by_folder(root: Path, passed: PassedOver, left_out: Sequence[str] = ()) -> list[tuple[Path, str]]:
    """List the images of a tree of class folders, each with its folder's name.

    Args:
        root: of the tree.
        passed: counts what is left out, also files beside the class folders.
        left_out: folders that are no class.

    Raises:
        InputError: a class folder holds no images.
    """
    entries = sorted(path for path in root.iterdir() if is_wanted(path.name, passed))
    passed.others += [path.name for path in entries if not path.is_dir()]
    folders = [path for path in entries if path.is_dir() and path.name not in left_out]
    return [(path, folder.name) for folder in folders for path in class_images(folder, passed)]


def _layout(config: Config) -> Callable[[Path, Config], Tree]:
    known = sorted(module.name for module in pkgutil.iter_modules(layouts.__path__))
    if config.layout in known:
        module = importlib.import_module(f"{layouts.__name__}.{config.layout}")
    elif config.layout in DATASETS and hasattr(DATASETS[config.layout], "read"):
        module = DATASETS[config.layout]
    else:
        raise InputError(f"config {config.name}: layout {config.layout!r} is unknown; known are {', '.join(known)}")
    read: Callable[[Path, Config], Tree] = module.read
    return read


def _expected(config: Config) -> str:
    tree = f"it should look like\n{config.tree.rstrip()}\n" if config.tree else ""
    return f"{tree}give its folder with --data-path" + (f"; it is published at {config.url}" if config.url else "")


def _download(config: Config, root: Path) -> None:
    from torchvision import datasets

    if config.torchvision is None:
        raise InputError(f"{config.name} cannot be fetched automatically; {_expected(config)}")
    options = dict(config.torchvision)
    try:
        getattr(datasets, options.pop("class"))(root, download=True, **options)
    except Exception as error:
        # Servers, proxies and truncated archives fail in many types.
        reason = " ".join(str(error).split())
        raise InputError(f"{config.name} could not be fetched ({reason}); {_expected(config)}") from error


def _relative(path: Path, root: Path) -> Path:
    try:
        return Path(os.path.relpath(path, root))
    except ValueError:  # On another drive of Windows.
        return path


def _fingerprint(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A compressed image changed in its middle has another size or end; of an uncompressed one all bytes are read.
            start = file.read(-1 if path.suffix.lower() in _UNCOMPRESSED else _FINGERPRINT_BYTES)
            file.seek(max(0, size - _FINGERPRINT_BYTES))
            return size.to_bytes(8, "big") + hashlib.blake2b(start + file.read(), digest_size=16).digest()
    except OSError as error:
        raise InputError(f"image {str(path)!r} cannot be read ({error.strerror}); the dataset lists it") from None
