"""Features on disk: safetensors shards beside a manifest, found again by what they were made of.

A shard appears whole or not at all, and carries a digest of its content, so that a killed run goes on where it stopped
and a damaged or foreign shard is made again. Processes that share a store write equal shards to the same names.
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
from crossalign.store.files import cache_root, write_whole

SCHEMA = 1
TOWERS = "towers"
_PART = r"\..+\.[0-9a-f]{32}\.part"
_OF_FEATURES = rf"manifest\.json|shard-\d{{5,}}\.safetensors|{_PART}"
_EXPORT = r"tmp[a-z0-9_]{8}"
"""The folder of a tower that is being exported."""
_OF_TOWERS = rf".+\.(xml|bin)|check-[0-9a-f]+\.json|{_PART}"


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one set of features.

    Attributes:
        folder: where they lie.
        digest: of the key that they were made of.
    """

    folder: Path
    digest: str

    def read(self, shard: int) -> dict[str, Tensor] | None:
        """Read a shard; None if it is missing, damaged or made of something else."""
        try:
            with safe_open(self.path(shard), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if metadata == self._metadata(shard, tensors) else None

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard whole."""
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_whole(self.path(shard), _in_order(save(tensors, self._metadata(shard, tensors))))

    def numbers(self) -> list[int]:
        """List the shards that lie there, whole or damaged, in order."""
        names = (re.fullmatch(r"shard-(\d{5,})\.safetensors", file.name) for file in _inside(self.folder))
        return sorted(int(name[1]) for name in names if name)

    def path(self, shard: int) -> Path:
        """Name a shard's file."""
        return self.folder / f"shard-{shard:05d}.safetensors"

    def _metadata(self, shard: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        hasher = hashlib.blake2b(digest_size=16)
        for name in sorted(tensors):
            hasher.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
            hasher.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
        return {"key": self.digest, "shard": str(shard), "content": hasher.hexdigest()}


@dataclass(frozen=True)
class KeptSet:
    """What lies in one folder of a store: features, or exported towers.

    Attributes:
        kind: views, texts, anchors or towers.
        shards: its folder, and the digest that names it.
        key: what it was made of; None if its manifest is missing or damaged, and for towers, which have none.
        schema: of its layout; another one than `SCHEMA` is a newer version's, whose shards cannot be judged.
    """

    kind: str
    shards: ShardFolder
    key: dict[str, Any] | None
    schema: Any = SCHEMA

    def files(self) -> list[Path]:
        """List its files, also those that a killed process left half written; foreign files are none of it."""
        kept = re.compile(_OF_TOWERS if self.kind == TOWERS else _OF_FEATURES)
        inside = _inside(self.shards.folder)
        exports = [folder for folder in inside if self.kind == TOWERS and re.fullmatch(_EXPORT, folder.name)]
        inside = inside + [file for folder in exports for file in _inside(folder)]
        return sorted(file for file in inside if kept.fullmatch(file.name) and file.is_file())

    def half_written(self, file: Path) -> bool:
        """Tell whether one of its files is being written, or was when its process was killed."""
        return file.suffix == ".part" or file.parent != self.shards.folder


class Store:
    """A folder of feature sets, one subfolder a key."""

    def __init__(self, root: str | Path | None = None):
        self.root = cache_root(root)

    def open(self, key: Mapping[str, Any]) -> ShardFolder:
        """Find or begin the shards of a key: plain JSON that holds all that the features depend on.

        Raises:
            InputError: the store was written by a newer version, or cannot be written.
        """
        digest = digest_of(key)
        folder = self.root / str(key["kind"]) / digest
        manifest = folder / "manifest.json"
        found, schema = _manifest(folder)
        if schema != SCHEMA:
            raise InputError(f"{other_schema(folder, schema)}; use another --store")
        if found is None:
            content = json.dumps({"schema": SCHEMA, "key": dict(key)}, indent=1, sort_keys=True)
            write_whole(manifest, content.encode())
        return ShardFolder(folder, digest)

    def sets(self) -> list[KeptSet]:
        """List what is kept, by kind and digest.

        Raises:
            InputError: the folder cannot be read.
        """
        try:
            # No other folder is looked into: a disk's lost+found may be nobody's to read.
            kinds = [kind for kind in _inside(self.root) if re.fullmatch(r"[a-z]+", kind.name) and kind.is_dir()]
            folders = [folder for kind in kinds for folder in _inside(kind) if re.fullmatch(r"[0-9a-f]{16,}", folder.name)]
            found = [KeptSet(f.parent.name, ShardFolder(f, f.name), *_manifest(f)) for f in folders if f.is_dir()]
            return [kept for kept in found if kept.files()]
        except OSError as error:
            raise InputError(f"store {str(self.root)!r} cannot be read ({error.strerror}); name another --store") from None


def digest_of(key: Mapping[str, Any]) -> str:
    """Digest a key: the name of its folder."""
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()


def other_schema(folder: Path, schema: Any) -> str:
    """Say that a set was written by a newer version."""
    return f"{str(folder)!r} has schema {str(schema)[:20]}, this version reads {SCHEMA}"


def _manifest(folder: Path) -> tuple[dict[str, Any] | None, Any]:
    """Read a set's key and schema: no key if that is damaged or another set's, this version's schema if it says none."""
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        schema, key = content["schema"], content.get("key")
        whole = isinstance(key, dict) and digest_of(key) == folder.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, SCHEMA
    return key if whole else None, schema


def _inside(folder: Path) -> list[Path]:
    """List a folder in order; one that another process removed meanwhile is empty."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _in_order(shard: bytes) -> bytes:
    """Put the metadata of a shard in order, which safetensors writes in another one each time."""
    start = 8 + int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(shard)[start:]))
