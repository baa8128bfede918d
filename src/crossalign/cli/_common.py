"""What several verbs share: progress bars, options, pictures from the command line."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli._console import paths_from_stdin
from crossalign.cli._progress import show_progress
from crossalign.errors import InputError
from crossalign.images.finding import PassedOver, images_in, is_packed, parts_wanted
from crossalign.text.labels import read_labels_file, split_labels

if TYPE_CHECKING:
    from crossalign.encoders import Encoder
    from crossalign.features.pipeline import ProgressBar

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the views and of all that is random."
)
workers_option = click.option(
    "--num-workers", "--num_workers", default=2, show_default=True, type=click.IntRange(0), help="Decoding threads."
)


MANY_LABELS = 200
"""Labels from which on their texts are cached between runs; fewer are encoded in a moment."""


def options(*each: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several options, which --help shows in their order."""

    def add(command: Any) -> Any:
        for option in reversed(each):
            command = option(command)
        return command

    return add


runtime_options = options(
    click.option(
        "--runtime",
        type=click.Choice(["auto", "torch", "openvino"]),
        default="auto",
        show_default=True,
        help="What computes the image tower; auto: openvino where it is installed and agrees with torch, and else torch.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["f32", "bf16", "int8"]),
        help="Of the image tower [default: bf16 where the device gains from it and agrees with f32, and else f32].",
    ),
    click.option(
        "--calibrate", type=click.Path(), help="Folder of pictures for int8 to measure its ranges on [default: examples]."
    ),
)


def taken(settings: dict[str, Any]) -> dict[str, Any]:
    """Take out of a command's settings what `load_encoder` needs of them."""
    return {key: settings.pop(key) for key in ("device", "runtime", "precision", "calibrate")}


def load_encoder(spec: str, options: Mapping[str, Any]) -> Encoder:
    """Load an encoder as `device_option` and `runtime_options` say, and say what computes it."""
    from crossalign import encoders

    calibrate = options["calibrate"]
    if calibrate and options["precision"] != "int8":
        raise InputError(f"--calibrate {calibrate} is of use with --precision int8 alone; add that or leave it out")
    encoder = encoders.load_encoder(
        spec,
        options["device"],
        runtime=options["runtime"],
        precision=options["precision"],
        calibration=find_images([calibrate]) if calibrate else (),
    )
    runtime = getattr(encoder, "runtime", None)
    if runtime and runtime.key:
        check = f"lowest cosine to torch in f32 {runtime.cosine:.4f}"
        click.echo(f"{encoder.name} runs on {runtime.engine} in {runtime.precision} ({check})", err=True)
    return encoder


store_option = click.option(
    "--store", type=click.Path(), help="Where features are kept [default: $CROSSALIGN_CACHE, else the user's cache]."
)
form_option = click.option(
    "--form",
    type=click.Choice(["released", "paper"]),
    default="released",
    show_default=True,
    help="Score: cosine of the pooled features as in the released program, or the paper's double sum.",
)


def count_or_adaptive(value: str) -> int | str:
    """Read a number of views from 1 on, or the word adaptive."""
    if value == "adaptive":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} must be a whole number from 1 on, or adaptive")
    return int(value)


def progress_bar(total: int, what: str) -> AbstractContextManager[ProgressBar]:
    """Show rate and time left on standard error: a bar on a terminal, and else a line at most every ten seconds."""
    return show_progress(total, what)


def read_labels(labels: str | None, labels_file: str | None) -> list[str]:
    """Take labels from --labels or from --labels-file, in any notation that `split_labels` knows.

    Raises:
        InputError: both or neither given, the file cannot be read, or it is no list of labels.
    """
    if (labels is None) == (labels_file is None):
        raise InputError('give the labels either as --labels "cat,dog" or as --labels-file FILE')
    if labels is None:
        return read_labels_file(str(labels_file))
    # In a locale without UTF-8 the arguments hold the bytes of their letters.
    return split_labels(os.fsencode(labels).decode("utf-8", "surrogateescape"), "--labels")


def for_many_labels(names: Sequence[str]) -> dict[str, Any]:
    """Say to `Classifier` that the texts of many labels are cached for the next run, and that their encoding is shown."""
    if len(names) < MANY_LABELS:
        return {}
    from crossalign.store.shards import Store

    return {"store": Store(), "progress": progress_bar}


def find_images(paths: Sequence[str]) -> list[str]:
    """Expand files, folders (searched through), glob patterns and "-" (a list on standard input), and say what is left out.

    Raises:
        InputError: a folder or pattern holds no image.
    """
    found: list[str] = []
    passed = PassedOver()
    for path in paths:
        if path == "-":
            found += paths_from_stdin()
        elif glob.has_magic(path) and not Path(path).exists():
            found += _matches(path, passed)
        else:
            found += _expanded(path, passed)
    if passed_over := str(passed):
        click.echo(passed_over, err=True)
    if not found:
        raise InputError("no images were named; give files, folders or patterns")
    return found


def _expanded(path: str, passed: PassedOver) -> list[str]:
    """List the images of a folder; give anything else as it is."""
    if not Path(path).is_dir():
        return [path]
    inside = PassedOver()
    found = [str(image) for image in images_in(Path(path), inside)]
    passed.add(inside)
    if not found:
        left = f"; {inside}" if str(inside) else ""
        packed = any(is_packed(name) for name in inside.others)
        hint = "; tars and Parquet tables are read with --executor ray" if packed else ""
        raise InputError(f"folder {path!r} holds no images{left}{hint}; name another")
    return found


def _matches(pattern: str, passed: PassedOver) -> list[str]:
    """List what a pattern matches, without what archives and systems leave; folders among it are searched through."""
    plain = Path(pattern).parts
    named = next(number for number, part in enumerate(plain) if glob.has_magic(part))
    matches = [path for path in sorted(glob.glob(pattern, recursive=True)) if parts_wanted(Path(path).parts[named:], passed)]
    # "photos/**" matches a folder and also what is in it.
    inside = {str(parent) for path in matches for parent in Path(path).parents}
    found = [image for path in matches if path.rstrip("/") not in inside for image in _expanded(path, passed)]
    if not found:
        raise InputError(f"no file matches {pattern!r}; check the pattern")
    return found


def check_output(path: str) -> Path:
    """Make sure, before long work, that a file can be written there.

    Raises:
        InputError: its folder does not exist or is locked, or it is a folder itself.
    """
    file = Path(path)
    try:
        wrong = file.is_dir() or not file.absolute().parent.is_dir()
    except OSError as error:
        raise InputError(f"output {path!r} cannot be written ({error.strerror}); name another file") from None
    if wrong:
        raise InputError(f"output {path!r} cannot be written, since its folder is missing or it is one; name another file")
    return file


def to_json(content: Any) -> str:
    """Lay out JSON for people and programs."""
    return json.dumps(content, indent=2, ensure_ascii=False)
