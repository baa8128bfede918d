"""Labels in a file: journalled beside it as they come, so that a killed run goes on, and written whole at the end."""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import click

from crossalign.classifier import Classification, Classifier
from crossalign.cli import _common as common
from crossalign.cli._journal import Journal, Stamp, stamp_of
from crossalign.errors import InputError
from crossalign.reports.formats import WRITERS, settings_of
from crossalign.store.files import atomic_file, remove_parts


def check_labels_file(path: str) -> Path:
    """Make sure, before long work, that labels can be written there.

    Raises:
        InputError: another ending than the three, pyarrow is missing, or the folder is.
    """
    file = common.check_output(path)
    ending = file.suffix.lower()
    if ending not in WRITERS:
        raise InputError(f"output {path!r} ends in none of {', '.join(WRITERS)}; give it one of these endings")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError("writing .parquet needs pyarrow; run `pip install pyarrow`, or write .csv or .jsonl")
    return file


def label_into(file: Path, classify: Classifier, pictures: Sequence[str], top_k: int) -> int:
    """Label pictures into a file, or go on with it: however often it was stopped, the bytes are the same.

    Args:
        file: as `check_labels_file` took it; it is touched at the end alone.
        classify: whose labels.
        pictures: paths, in the order of the file.
        top_k: labels a picture.

    Returns:
        How many pictures could not be read.

    Raises:
        InputError: the journal is another run's or in use, or journal or file cannot be written.
    """
    with closing(Journal(file.with_name(f".{file.name}.part"), settings_of(classify, top_k))) as journal:
        remove_parts(file)
        kept = journal.take_up(pictures)
        if kept:
            click.echo(f"{kept:,} of {len(pictures):,} pictures were labelled before; going on", err=True)
        with common.progress_bar(len(pictures) - kept, "pictures") as bar:
            for result, stamp in _stamped(classify, islice(pictures, kept, None), top_k):
                journal.add(result, stamp)
                bar.update(1)
        journal.sync()
        with atomic_file(file) as out:
            WRITERS[file.suffix.lower()](journal.results(len(pictures)), out)
        journal.remove()
        return journal.failed


def _stamped(classify: Classifier, pictures: Iterable[str], top_k: int) -> Iterator[tuple[Classification, Stamp]]:
    stamps: deque[Stamp] = deque()

    def noted() -> Iterator[str]:
        for picture in pictures:
            # Before it is read: a picture that changes between the two shall count as changed.
            stamps.append(stamp_of(picture))
            yield picture

    for result in classify.stream(noted(), top_k):
        yield result, stamps.popleft()
