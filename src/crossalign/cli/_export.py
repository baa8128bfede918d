"""A kept set as one file: NumPy's .npz or Parquet, written shard by shard so that memory does not grow with it."""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from crossalign.errors import InputError
from crossalign.store.files import writing_whole

if TYPE_CHECKING:
    from crossalign.store.shards import KeptSet

Arrays = dict[str, np.ndarray[Any, Any]]


def export_set(kept: KeptSet, file: Path) -> dict[str, list[int]]:
    """Write a set's arrays whole: for views `whole` (N, D) and `views` (N, M, D), the dataset's order.

    Returns:
        The shapes by name.

    Raises:
        InputError: a shard is missing or damaged, the suffix is another, pyarrow is missing, or the disk is full.
    """
    suffix = file.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise InputError(f"output {str(file)!r} ends in neither .npz nor .parquet; give it one of these endings")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("writing .parquet needs pyarrow; run `pip install pyarrow`, or write .npz")
    shapes, kinds = _shapes(kept)
    with writing_whole(file) as out:
        if suffix == ".npz":
            _write_npz(out, kept, shapes, kinds)
        else:
            _write_parquet(out, kept, shapes)
    return shapes


def _shapes(kept: KeptSet) -> tuple[dict[str, list[int]], dict[str, np.dtype[Any]]]:
    """Find the shapes of all shards together, and refuse a set with a gap."""
    numbers = kept.shards.numbers()
    if lacking := sorted(set(range(max(numbers, default=0) + 1)) - set(numbers)):
        raise InputError(f"set {kept.shards.digest} lacks shard {lacking[0]}; run again the command that made it")
    shapes: dict[str, list[int]] = {}
    kinds: dict[str, np.dtype[Any]] = {}
    for arrays in _arrays(kept):
        for name, array in arrays.items():
            rows = shapes[name][0] if name in shapes else 0
            shapes[name], kinds[name] = [rows + len(array), *array.shape[1:]], array.dtype
    return shapes, kinds


def _arrays(kept: KeptSet) -> Iterator[Arrays]:
    for number in kept.shards.numbers():
        tensors = kept.shards.read(number)
        if tensors is None:
            where = str(kept.shards.path(number))
            raise InputError(f"shard {where!r} is damaged; run again the command that made it, which mends it")
        yield {name: tensor.numpy() for name, tensor in tensors.items()}


def _write_npz(file: BinaryIO, kept: KeptSet, shapes: dict[str, list[int]], kinds: dict[str, np.dtype[Any]]) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                head = {"descr": np.lib.format.dtype_to_descr(kinds[name]), "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(out, head)
                for arrays in _arrays(kept):
                    out.write(arrays[name].tobytes())


def _write_parquet(file: BinaryIO, kept: KeptSet, shapes: dict[str, list[int]]) -> None:
    """Write a row a picture and a group of rows a shard; float32, since few readers of Parquet know float16."""
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")

    def column(array: np.ndarray[Any, Any]) -> Any:
        values = pyarrow.array(array.astype(np.float32).reshape(-1))
        for width in reversed(array.shape[1:]):
            values = pyarrow.FixedSizeListArray.from_arrays(values, width)
        return values

    # Parquet cannot hold lists of no elements: a set without local views has the whole image alone.
    names = [name for name, shape in shapes.items() if 0 not in shape[1:]]
    writer = None
    try:
        for arrays in _arrays(kept):
            table = pyarrow.table({name: column(arrays[name]) for name in names})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
