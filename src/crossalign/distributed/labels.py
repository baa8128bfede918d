"""Label images on a cluster, into a folder of Parquet files.

A part (one Parquet file) holds a fixed range of the images and is written atomically by the worker that labelled it. A
repeated task therefore writes the same bytes, and a run that was stopped resumes with the missing parts.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.dataset
import pyarrow.fs

from crossalign.classifier import Classifier
from crossalign.classifier.scorer import LabelScorer
from crossalign.distributed import Cluster, LoadOfWorker
from crossalign.distributed._sources import Unit, find_files, is_remote, place, units_of
from crossalign.errors import InputError
from crossalign.features.pipeline import Progress, silent
from crossalign.features.streaming import ViewPolicy
from crossalign.images.decoding import ImageLike
from crossalign.reports.formats import first_change, settings_of, write_parquet
from crossalign.store.files import write_atomically
from crossalign.store.shards import digest_of

MIN_IMAGES, MAX_IMAGES = 64, 1024
"""Images per part: few, so that a lost worker repeats little; more if there would be more than `MAX_PARTS` files."""
MAX_PARTS = 10_000

SETTINGS_FILE = "_crossalign.json"
"""Readers of Parquet folders ignore names that begin with an underscore."""
PART_FILE = re.compile(r"part-(\d{6})-(\d{5})\.parquet")
DONE_FILE = re.compile(r"_done-(\d{6})")
"""Marks a tar or table as complete, because its number of parts is not known before it was read."""


def label_images(
    cluster: Cluster,
    classify: Classifier,
    addresses: Sequence[str],
    output: str,
    top_k: int = 3,
    progress: Progress = silent,
) -> tuple[int, int]:
    """Label images into a folder of Parquet files, or resume an earlier run.

    Args:
        cluster: the cluster.
        classify: the classifier; every worker loads the same encoder.
        addresses: image files, folders of them, tars, or tables with encoded images, as paths or URIs that all workers can
            read. Results have absolute paths.
        output: path or URI of the folder; its files have the columns `CSV_HEADER`.
        top_k: labels per image.
        progress: shown while images are labelled; it counts images, or tars and tables.

    Returns:
        Number of images, and number of images that could not be read.

    Raises:
        InputError: there are no images, the folder was made with other settings, or a file cannot be read or written.
    """
    # Absolute paths, because workers have other working directories.
    files = find_files([address if is_remote(address) else os.path.abspath(address) for address in addresses])
    units = units_of(files, max(MIN_IMAGES, min(MAX_IMAGES, len(files) // MAX_PARTS)))
    folder = PartFolder(output if is_remote(output) else os.path.abspath(output))
    folder.open({**settings_of(classify, top_k), "list of images": digest_of({"files": files})})
    packed = units[0].packed
    done = folder.done() if packed else folder.parts().keys()
    missing = [unit for unit in units if unit.number not in done]
    if missing:
        # Each worker loads the encoder for its own device.
        load = _LoadClassifier(cluster.load_of_worker, classify.scorer, classify.views, classify.num_workers)
        arguments = (load, folder, top_k)
        total = sum(len(unit.addresses) for unit in missing)
        with progress(total, f"{'tars and tables' if packed else 'images'} labelled") as bar:
            for row in cluster.map(_Label, arguments, missing):
                bar.update(int(row["files"]))
    return folder.count()


@dataclass(frozen=True)
class PartFolder:
    """An output folder.

    Attributes:
        address: its path or URI.
    """

    address: str

    def open(self, settings: Mapping[str, Any]) -> None:
        """Write the settings that decide the labels; if the folder has settings already, compare them.

        Raises:
            InputError: the settings differ, or the folder has other files, or cannot be written.
        """
        content = json.dumps(settings, indent=1).encode()
        before = self._read(SETTINGS_FILE)
        if before is None:
            files, path = place(self.address)
            if any(file.is_file for file in _list(files, path)):
                raise InputError(f"output {self.address!r} has other files in it; choose a new folder")
            self.write(SETTINGS_FILE, content)
        elif name := first_change(json.loads(content), before):
            raise InputError(
                f"output {self.address!r} was started with another {name}; "
                "use the settings that started it, or choose another output"
            )

    def parts(self) -> dict[int, set[int]]:
        """Numbers of the existing parts, by unit."""
        parts: dict[int, set[int]] = {}
        for unit, part in self._numbers(PART_FILE):
            parts.setdefault(unit, set()).add(part)
        return parts

    def done(self) -> set[int]:
        """Numbers of the tars and tables that are complete."""
        return {unit for (unit,) in self._numbers(DONE_FILE)}

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically.

        Raises:
            InputError: it cannot be written.
        """
        if not is_remote(self.address):
            write_atomically(Path(self.address) / name, content)
            return
        files, path = place(self.address)
        try:
            files.create_dir(path)
            # Object stores show an object only when its stream is closed.
            with files.open_output_stream(f"{path}/{name}") as stream:
                stream.write(content)
        except OSError as error:
            raise InputError(
                f"{self.address + '/' + name!r} cannot be written ({error}); free space or choose another output"
            ) from None

    def count(self) -> tuple[int, int]:
        """Number of images, and number of images that could not be read."""
        files, path = place(self.address)
        names = [file.path for file in _list(files, path) if PART_FILE.fullmatch(file.base_name)]
        table = pyarrow.dataset.dataset(names, filesystem=files, format="parquet")
        failed = table.count_rows(filter=pyarrow.compute.field("error").is_valid())
        unlabelled = table.count_rows(filter=pyarrow.compute.field("reason").is_valid())
        return failed + unlabelled + table.count_rows(filter=pyarrow.compute.field("rank") == 1), failed

    def _numbers(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, ...]]:
        files, path = place(self.address)
        matches = (pattern.fullmatch(file.base_name) for file in _list(files, path))
        return (tuple(map(int, match.groups())) for match in matches if match)

    def _read(self, name: str) -> bytes | None:
        files, path = place(self.address)
        try:
            with files.open_input_stream(f"{path}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"output {self.address!r} cannot be read ({error}); choose another output") from None
        return content


@dataclass(frozen=True)
class _LoadClassifier:
    """Loads a classifier in a worker: the encoded labels travel, the encoder does not."""

    encoder: LoadOfWorker
    scorer: LabelScorer
    views: ViewPolicy
    num_workers: int

    def __call__(self) -> Classifier:
        return Classifier.of(self.scorer, self.encoder(), self.views, num_workers=self.num_workers)


class _Label:
    """A worker that labels units."""

    def __init__(self, load: _LoadClassifier, folder: PartFolder, top_k: int):
        self._load, self._folder, self._top_k = load, folder, top_k
        self._classify: Classifier | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Label the missing parts of a unit."""
        unit: Unit = row["task"]
        try:
            self._classify = self._classify or self._load()
            self._label(unit, self._classify)
        except (InputError, OSError) as error:
            return {"files": 0, "error": " ".join(str(error).split())}
        return {"files": len(unit.addresses), "error": ""}

    def _label(self, unit: Unit, classify: Classifier) -> None:
        if not unit.packed:
            self._write(unit, 0, classify, unit.images(lambda number: True))
            return
        done = self._folder.parts().get(unit.number, set())
        images = unit.images(lambda number: number // MAX_IMAGES not in done)
        for part in count():
            first = list(islice(images, 1))
            if not first:
                break
            rest = islice(images, MAX_IMAGES - 1)
            if part in done:
                deque(rest, maxlen=0)
            else:
                self._write(unit, part, classify, chain(first, rest))
        self._folder.write(f"_done-{unit.number:06d}", b"")

    def _write(self, unit: Unit, part: int, classify: Classifier, images: Iterable[ImageLike | None]) -> None:
        content = io.BytesIO()
        write_parquet(classify.stream((image for image in images if image is not None), self._top_k), content)
        self._folder.write(f"part-{unit.number:06d}-{part:05d}.parquet", content.getvalue())


def _list(files: Any, path: str) -> list[Any]:
    infos: list[Any] = files.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
    return infos
