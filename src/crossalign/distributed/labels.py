"""Label pictures on a cluster: a folder of Parquet files, a part at a time, in which nothing is done twice.

A part holds a fixed range of the pictures and is written whole by whoever labelled it, so that a repeated task writes the
same bytes and a run that was stopped goes on with the parts that are not there.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.dataset
import pyarrow.fs

from crossalign.classifier import Classifier
from crossalign.distributed import Cluster, LoadOfWorker
from crossalign.distributed._sources import Unit, find_files, is_remote, place, units_of
from crossalign.errors import InputError
from crossalign.features.pipeline import Progress, silent
from crossalign.images.decoding import ImageLike
from crossalign.reports.formats import first_change, settings_of, write_parquet
from crossalign.store.files import write_whole
from crossalign.store.shards import digest_of

LEAST, MOST = 64, 1024
"""Pictures a part: few, so that a worker that dies does little again, unless that made more than `PARTS` files."""
PARTS = 10_000

_ABOUT = "_crossalign.json"
"""Readers of Parquet folders pass over names that begin so."""
_PART = re.compile(r"part-(\d{6})-(\d{5})\.parquet")
_DONE = re.compile(r"_done-(\d{6})")
"""Says that a tar or a table, whose number of parts nobody knows beforehand, has them all."""


def label_pictures(
    cluster: Cluster,
    classify: Classifier,
    addresses: Sequence[str],
    output: str,
    top_k: int = 3,
    progress: Progress = silent,
) -> tuple[int, int]:
    """Label pictures into a folder of Parquet files, or go on with it.

    Args:
        cluster: who does it.
        classify: how; its encoder's like is on every worker.
        addresses: picture files, folders of them, tars, or tables with their bytes, as paths or URIs that all workers reach;
            results hold absolute paths.
        output: the folder, likewise; each part has the columns image, rank, label, score, probability and error.
        top_k: labels a picture.
        progress: shown meanwhile; it counts pictures, or tars and tables.

    Returns:
        How many pictures there are, and how many of them could not be read.

    Raises:
        InputError: there is nothing to label, the folder holds other labels, or something cannot be read or written.
    """
    # Workers are at home in folders of their own.
    files = find_files([address if is_remote(address) else os.path.abspath(address) for address in addresses])
    everything = units_of(files, max(LEAST, min(MOST, len(files) // PARTS)))
    folder = PartFolder(output if is_remote(output) else os.path.abspath(output))
    about = {**settings_of(classify, top_k), "list of pictures": digest_of({"files": files})}
    folder.begin(about)
    packed = everything[0].packed
    done = folder.done() if packed else folder.parts().keys()
    missing = [unit for unit in everything if unit.number not in done]
    if missing:
        stripped = copy(classify)
        del stripped.encoder
        arguments = (cluster.load_of_worker, stripped, folder, top_k)
        with progress(
            sum(len(unit.addresses) for unit in missing), f"{'files of pictures' if packed else 'pictures'} labelled"
        ) as bar:
            for row in cluster.map(_Label, arguments, missing):
                bar.update(int(row["files"]))
    return folder.count()


@dataclass(frozen=True)
class PartFolder:
    """The parts of an output.

    Attributes:
        address: a path or URI.
    """

    address: str

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write down what decides the labels, or see that it is the same as before.

        Raises:
            InputError: it is not, or the folder holds something else, or cannot be written.
        """
        content = json.dumps(about, indent=1).encode()
        before = self._read(_ABOUT)
        if before is None:
            files, path = place(self.address)
            if any(file.is_file for file in _inside(files, path)):
                raise InputError(f"output {self.address!r} holds other files; name a new folder")
            self.write(_ABOUT, content)
        elif name := first_change(json.loads(content), before):
            raise InputError(
                f"output {self.address!r} was begun with another {name}; "
                "give the command that began it, or name another --output"
            )

    def parts(self) -> dict[int, set[int]]:
        """List the parts that are there, by unit."""
        found: dict[int, set[int]] = {}
        for unit, part in self._numbers(_PART):
            found.setdefault(unit, set()).add(part)
        return found

    def done(self) -> set[int]:
        """List the tars and tables that have all their parts."""
        return {unit for (unit,) in self._numbers(_DONE)}

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole.

        Raises:
            InputError: it cannot be written.
        """
        if not is_remote(self.address):
            write_whole(Path(self.address) / name, content)
            return
        files, path = place(self.address)
        try:
            files.create_dir(path)
            # Object stores show an object when its stream is closed, and never a part of it.
            with files.open_output_stream(f"{path}/{name}") as stream:
                stream.write(content)
        except OSError as error:
            raise InputError(
                f"{self.address + '/' + name!r} cannot be written ({error}); free or name another place"
            ) from None

    def count(self) -> tuple[int, int]:
        """Count pictures, and those without a label."""
        files, path = place(self.address)
        names = [file.path for file in _inside(files, path) if _PART.fullmatch(file.base_name)]
        table = pyarrow.dataset.dataset(names, filesystem=files, format="parquet")
        failed = table.count_rows(filter=pyarrow.compute.field("error").is_valid())
        return failed + table.count_rows(filter=pyarrow.compute.field("rank") == 1), failed

    def _numbers(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, ...]]:
        files, path = place(self.address)
        found = (pattern.fullmatch(file.base_name) for file in _inside(files, path))
        return (tuple(map(int, match.groups())) for match in found if match)

    def _read(self, name: str) -> bytes | None:
        files, path = place(self.address)
        try:
            with files.open_input_stream(f"{path}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"output {self.address!r} cannot be read ({error}); name another --output") from None
        return content


class _Label:
    """A worker that labels units."""

    def __init__(self, load: LoadOfWorker, classify: Classifier, folder: PartFolder, top_k: int):
        self._load, self._classify, self._folder, self._top_k = load, classify, folder, top_k

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Label those parts of a unit that are not there."""
        unit: Unit = row["task"]
        try:
            if not hasattr(self._classify, "encoder"):
                self._classify.encoder = self._load()
            self._label(unit)
        except (InputError, OSError) as error:
            return {"files": 0, "error": " ".join(str(error).split())}
        return {"files": len(unit.addresses), "error": ""}

    def _label(self, unit: Unit) -> None:
        if not unit.packed:
            self._write(unit, 0, unit.pictures(lambda number: True))
            return
        there = self._folder.parts().get(unit.number, set())
        pictures = unit.pictures(lambda number: number // MOST not in there)
        for part in count():
            these = list(islice(pictures, 1))
            if not these:
                break
            rest = islice(pictures, MOST - 1)
            if part in there:
                deque(rest, maxlen=0)
            else:
                self._write(unit, part, chain(these, rest))
        self._folder.write(f"_done-{unit.number:06d}", b"")

    def _write(self, unit: Unit, part: int, pictures: Iterable[ImageLike | None]) -> None:
        content = io.BytesIO()
        write_parquet(self._classify.stream((one for one in pictures if one is not None), self._top_k), content)
        self._folder.write(f"part-{unit.number:06d}-{part:05d}.parquet", content.getvalue())


def _inside(files: Any, path: str) -> list[Any]:
    found: list[Any] = files.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
    return found
