"""Export a cached set as one NumPy .npz file, shard by shard, so that memory does not grow with the set."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crossalign.errors import InputError
from crossalign.store.files import atomic_file
from crossalign.store.shards import CachedSet

Arrays = dict[str, np.ndarray[Any, Any]]


def export_npz(cached: CachedSet, file: Path) -> dict[str, list[int]]:
    """Write the arrays of all shards to one .npz file, atomically and in the dataset's order.

    Args:
        cached: the set. For views the arrays are "global_view" (N, D), the global views, and "views" (N, M, D).
        file: the file to write.

    Returns:
        The shape of each array.

    Raises:
        InputError: a shard is missing or damaged, or the file cannot be written.
    """
    numbers = [name for name in cached.shards.names() if isinstance(name, int)]
    if missing := sorted(set(range(max(numbers, default=0) + 1)) - set(numbers)):
        raise InputError(f"set {cached.shards.digest} lacks shard {missing[0]}; run the command that made it again")
    # The header of an array comes before its values, so that all shapes are needed first.
    shapes: dict[str, list[int]] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    for arrays in _read_shards(cached):
        for name, array in arrays.items():
            rows = shapes[name][0] if name in shapes else 0
            shapes[name], dtypes[name] = [rows + len(array), *array.shape[1:]], array.dtype
    with atomic_file(file) as out, zipfile.ZipFile(out, "w", allowZip64=True) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                descr = np.lib.format.dtype_to_descr(dtypes[name])
                header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(member, header)
                for arrays in _read_shards(cached):
                    member.write(arrays[name].tobytes())
    return shapes


def _read_shards(cached: CachedSet) -> Iterator[Arrays]:
    for number in cached.shards.names():
        tensors = cached.shards.read(number)
        if tensors is None:
            path = str(cached.shards.path(number))
            raise InputError(f"shard {path!r} is damaged; run the command that made it again, which writes it anew")
        yield {name: tensor.numpy() for name, tensor in tensors.items()}
