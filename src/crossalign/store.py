"""Features on disk: safetensors shards beside a manifest, found again by what they were made of.

A shard appears whole or not at all, and carries a digest of its content, so that a killed run goes on where it stopped
and a damaged or foreign shard is made again. Processes that share a store write equal shards to the same names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossalign.errors import InputError
from crossalign.files import write_whole

SCHEMA = 1


def store_root(folder: str | Path | None = None) -> Path:
    """Say where features live: the given folder, else $CROSSALIGN_CACHE, else the platform's user cache folder."""
    return Path(folder or os.environ.get("CROSSALIGN_CACHE") or user_cache_path("crossalign"))


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
            with safe_open(self._path(shard), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return tensors if metadata == self._metadata(shard, tensors) else None

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard whole."""
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_whole(self._path(shard), save(tensors, self._metadata(shard, tensors)))

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.safetensors"

    def _metadata(self, shard: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        hasher = hashlib.blake2b(digest_size=16)
        for name in sorted(tensors):
            hasher.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
            hasher.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
        return {"key": self.digest, "shard": str(shard), "content": hasher.hexdigest()}


class Store:
    """A folder of feature sets, one subfolder a key."""

    def __init__(self, root: str | Path | None = None):
        self.root = store_root(root)

    def open(self, key: Mapping[str, Any]) -> ShardFolder:
        """Find or begin the shards of a key: plain JSON that holds all that the features depend on.

        Raises:
            InputError: the store was written by a newer version, or cannot be written.
        """
        text = json.dumps(key, sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        folder = self.root / str(key["kind"]) / digest
        manifest = folder / "manifest.json"
        try:
            schema = json.loads(manifest.read_text(encoding="utf-8"))["schema"]
        except (OSError, ValueError, KeyError, TypeError):
            content = json.dumps({"schema": SCHEMA, "key": dict(key)}, indent=1, sort_keys=True)
            write_whole(manifest, content.encode())
            schema = SCHEMA
        if schema != SCHEMA:
            raise InputError(f"{str(folder)!r} has schema {schema}, this version reads {SCHEMA}; use another --store")
        return ShardFolder(folder, digest)
