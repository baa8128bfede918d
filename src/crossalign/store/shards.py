"""Features on disk: one folder per key, with a manifest and safetensors shards.

Shards are written atomically and carry a digest of their content. A killed run therefore resumes where it stopped, and a
shard that is damaged or belongs to another key is encoded again. Processes that share a store write the same bytes to the
same file names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossalign.errors import InputError
from crossalign.store.files import cache_root, write_atomically

SCHEMA = 1
TOWERS, ANCHORS, IMAGES = "towers", "anchors", "images"
"""Kinds of sets: exported towers, the names that the embedded encoder mixes, and users' own images."""
TEMPORARY = r"\..+\.[0-9a-f]{32}\.part"
DIGEST_LENGTH = 32
SHARD_FILE = rf"shard-([0-9a-f]{{{DIGEST_LENGTH}}}|\d{{5,}})\.safetensors"
FEATURE_FILES = rf"manifest\.json|{SHARD_FILE}|{TEMPORARY}"
TOWER_FILES = rf".+\.(xml|bin)|check-[0-9a-f]+\.json|{TEMPORARY}"
EXPORT_FOLDER = r"tmp[a-z0-9_]{8}"
"""Temporary folder of a tower while it is exported."""

Shard = int | str
"""Number of a shard of a dataset, or the digest of the content of a user's image."""


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one key.

    Attributes:
        folder: the folder of the shards.
        digest: digest of the key.
    """

    folder: Path
    digest: str

    def source(self, shard: Shard) -> str | None:
        """Read the source that a shard was written with; None if the shard is missing or belongs to another key.

        Only the header is read. Its sizes must agree with that of the file, so a truncated shard counts as missing; damaged
        values are noticed by `read`.
        """
        try:
            with safe_open(self.path(shard), framework="pt") as file:
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        is_own = (metadata.get("key"), metadata.get("shard")) == (self.digest, str(shard))
        return metadata.get("source", "") if is_own else None

    def read(self, shard: Shard) -> dict[str, Tensor] | None:
        """Read a shard; None if it is missing, damaged, or belongs to another key."""
        try:
            with safe_open(self.path(shard), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if metadata == self._metadata(shard, tensors, metadata.get("source", "")) else None

    def write(self, shard: Shard, tensors: Mapping[str, Tensor], source: str = "", *, durable: bool = True) -> None:
        """Write a shard atomically.

        Args:
            shard: its number or name.
            tensors: its content.
            source: digest of what the content was computed from, besides the key.
            durable: as in `write_atomically`.
        """
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = self._metadata(shard, tensors, source)
        write_atomically(self.path(shard), _with_sorted_metadata(save(tensors, metadata)), durable)

    def names(self) -> list[Shard]:
        """Numbers or names of the shards on disk, in order; damaged ones are included."""
        files = (re.fullmatch(SHARD_FILE, file.name) for file in _listdir(self.folder))
        names = [file[1] for file in files if file]
        numbers = sorted(int(name) for name in names if len(name) < DIGEST_LENGTH)
        return [*numbers, *(name for name in names if len(name) == DIGEST_LENGTH)]

    def path(self, shard: Shard) -> Path:
        """Path of a shard's file."""
        return self.folder / f"shard-{f'{shard:05d}' if isinstance(shard, int) else shard}.safetensors"

    def _metadata(self, shard: Shard, tensors: Mapping[str, Tensor], source: str) -> dict[str, str]:
        hasher = hashlib.blake2b(source.encode(), digest_size=16)
        for name in sorted(tensors):
            hasher.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
            hasher.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
        metadata = {"key": self.digest, "shard": str(shard), "content": hasher.hexdigest()}
        return metadata | ({"source": source} if source else {})


@dataclass(frozen=True)
class CachedSet:
    """One folder of a store: features, or exported encoder towers.

    Attributes:
        kind: "views", "texts", "anchors" or "towers".
        shards: the folder, and the digest that is its name.
        key: the key in the manifest; None if the manifest is missing or damaged. Towers have no manifest.
        schema: version of the layout. If it is not `SCHEMA`, a newer version of crossalign wrote the set, and this
            version cannot check its shards.
    """

    kind: str
    shards: ShardFolder
    key: dict[str, Any] | None
    schema: Any = SCHEMA

    def files(self) -> list[Path]:
        """Files of this set, unfinished ones included; files that crossalign did not write are left out."""
        own_name = re.compile(TOWER_FILES if self.kind == TOWERS else FEATURE_FILES)
        paths = _listdir(self.shards.folder)
        exports = [path for path in paths if self.kind == TOWERS and re.fullmatch(EXPORT_FOLDER, path.name)]
        paths = paths + [path for folder in exports for path in _listdir(folder)]
        return sorted(path for path in paths if own_name.fullmatch(path.name) and path.is_file())

    def is_unfinished(self, file: Path) -> bool:
        """Whether a process is writing this file, or was killed while it wrote it."""
        return file.suffix == ".part" or file.parent != self.shards.folder


class Store:
    """A folder of cached features, with one subfolder per key."""

    def __init__(self, root: str | Path | None = None):
        self.root = cache_root(root)

    def open(self, key: Mapping[str, Any]) -> ShardFolder:
        """Open the shards of a key, and create their folder if it does not exist.

        Args:
            key: JSON values that hold everything the features depend on; "kind" names the kind of features.

        Raises:
            InputError: a newer version wrote the folder, or the store cannot be written.
        """
        digest = digest_of(key)
        folder = self.root / str(key["kind"]) / digest
        manifest = folder / "manifest.json"
        known_key, schema = _read_manifest(folder)
        if schema != SCHEMA:
            raise InputError(f"{other_schema(folder, schema)}; use another store folder")
        if known_key is None:
            content = json.dumps({"schema": SCHEMA, "key": dict(key)}, indent=1, sort_keys=True)
            write_atomically(manifest, content.encode())
        return ShardFolder(folder, digest)

    def others(self, key: Mapping[str, Any], entry: str) -> list[ShardFolder]:
        """List the sets whose key has another value for `entry`, and else the same values."""
        expected = json.loads(json.dumps({**key, entry: None}))  # As a manifest has it: tuples are lists there.
        keys = {folder: _read_manifest(folder)[0] for folder in _listdir(self.root / str(key["kind"]))}
        same = [folder for folder, known in keys.items() if known and {**known, entry: None} == expected]
        return [ShardFolder(folder, folder.name) for folder in same if folder.name != digest_of(key)]

    def sets(self) -> list[CachedSet]:
        """List the cached sets, sorted by kind and digest.

        Raises:
            InputError: the folder cannot be read.
        """
        try:
            # Other folders are not opened: a disk's lost+found, for example, may not be readable.
            kinds = [kind for kind in _listdir(self.root) if re.fullmatch(r"[a-z]+", kind.name) and kind.is_dir()]
            folders = [folder for kind in kinds for folder in _listdir(kind) if re.fullmatch(r"[0-9a-f]{16,}", folder.name)]
            sets = [CachedSet(f.parent.name, ShardFolder(f, f.name), *_read_manifest(f)) for f in folders if f.is_dir()]
            return [cached for cached in sets if cached.files()]
        except OSError as error:
            raise InputError(
                f"store {str(self.root)!r} cannot be read ({error.strerror}); choose another store folder"
            ) from None


def digest_of(key: Mapping[str, Any]) -> str:
    """Digest of a key, which is the name of its folder."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()


def other_schema(folder: Path, schema: Any) -> str:
    """Error text for a set that a newer version wrote."""
    return f"{str(folder)!r} has schema {str(schema)[:20]}, this version reads {SCHEMA}"


def _read_manifest(folder: Path) -> tuple[dict[str, Any] | None, Any]:
    """Read key and schema. The key is None if it is damaged or of another folder; the schema defaults to `SCHEMA`."""
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        schema, key = content["schema"], content.get("key")
        valid = isinstance(key, dict) and digest_of(key) == folder.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, SCHEMA
    return key if valid else None, schema


def _listdir(folder: Path) -> list[Path]:
    """List a folder in order; empty if another process has removed it."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _with_sorted_metadata(shard: bytes) -> bytes:
    """Sort the metadata of a shard, because safetensors writes it in random order."""
    start = 8 + int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(shard)[start:]))
