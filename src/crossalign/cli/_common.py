"""What several commands share: options, progress bars, images and labels from the command line."""

from __future__ import annotations

import errno
import glob
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import wraps
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
    from crossalign.store.shards import Store


def options(*each: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several options; --help shows them in this order."""

    def add(command: Any) -> Any:
        for option in reversed(each):
            command = option(command)
        return command

    return add


def option_group(name: str, settings: type, *each: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several options that travel together.

    Args:
        name: the command's argument that gets the values of the options.
        settings: dataclass of these values; its fields are named as the options' parameters.
        each: made by `click.option`, in the order of --help.
    """

    def add(command: Callable[..., Any]) -> Any:
        @wraps(command)
        def with_settings(*args: Any, **values: Any) -> Any:
            group = settings(**{field.name: values.pop(field.name) for field in fields(settings)})
            return command(*args, **values, **{name: group})

        return options(*each)(with_settings)

    return add


@dataclass(frozen=True)
class EncoderOptions:
    """How an encoder is loaded: the values of --device, --runtime, --precision and --calibrate."""

    device: str
    runtime: str
    precision: str | None
    calibrate: str | None

    def calibration(self) -> list[str]:
        """Images on which int8 measures its ranges; none means the default ones."""
        return find_images([self.calibrate]) if self.calibrate else []


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps."
)
encoder_options = option_group(
    "encoder_options",
    EncoderOptions,
    device_option,
    click.option(
        "--runtime",
        type=click.Choice(["auto", "torch", "openvino"]),
        default="auto",
        show_default=True,
        help="Library that runs the image tower. auto: openvino if it is installed and agrees with torch, otherwise torch.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["f32", "bf16", "int8"]),
        help="Precision of the image tower [default: bf16 if the device is faster with it and it agrees with f32, "
        "otherwise f32].",
    ),
    click.option(
        "--calibrate",
        type=click.Path(),
        help="Folder of images on which int8 measures its ranges [default: example photos].",
    ),
)
"""Gives the command an `EncoderOptions` as its argument `encoder_options`."""

seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all random numbers."
)
workers_option = click.option(
    "--num-workers",
    "--num_workers",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    help="Threads that decode images.",
)
store_option = click.option(
    "--store",
    type=click.Path(),
    help="Folder where features are cached [default: $CROSSALIGN_CACHE, otherwise the user's cache folder].",
)
form_option = click.option(
    "--form",
    type=click.Choice(["released", "paper"]),
    default="released",
    show_default=True,
    help="Form of the score. released: cosine of the pooled features, as in the authors' program. paper: double sum, as in "
    "the paper.",
)


def load_encoder(spec: str, options: EncoderOptions) -> Encoder:
    """Load an encoder, and print the runtime if it is not torch in f32."""
    from crossalign import encoders

    if options.calibrate and options.precision != "int8":
        raise InputError(f"--calibrate {options.calibrate} works with --precision int8 only; add that, or omit --calibrate")
    encoder = encoders.load_encoder(
        spec,
        options.device,
        runtime=options.runtime,
        precision=options.precision,
        calibration=options.calibration(),
    )
    runtime = getattr(encoder, "runtime", None)
    if runtime and runtime.key:
        check = f"lowest cosine to torch in f32 {runtime.cosine:.4f}"
        click.echo(f"{encoder.name} runs on {runtime.engine} in {runtime.precision} ({check})", err=True)
    return encoder


def count_or_adaptive(value: str) -> int | str:
    """Read a number of views, at least 1, or the word adaptive."""
    if value == "adaptive":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} must be a whole number, at least 1, or adaptive")
    return int(value)


def progress_bar(total: int, what: str) -> AbstractContextManager[ProgressBar]:
    """Show rate and time left on standard error: a bar on a terminal, otherwise a line at most every ten seconds."""
    return show_progress(total, what)


label_options = options(
    click.option("--labels", help='Class names, comma separated: "cat,dog,cup of coffee".'),
    click.option("--labels-file", type=click.Path(), help="Class names, one per line."),
    click.option(
        "--examples",
        type=click.Path(),
        help="Folder DIR/CLASS/images of example images. Without labels, its class folders are the labels; with them, texts "
        "and examples answer together.",
    ),
)
"""How the labels are known; `read_known_labels` reads the values."""


def read_known_labels(labels: str | None, labels_file: str | None, examples: str | None) -> list[str] | None:
    """Read the labels as `read_labels` does; None if examples alone were given, whose class folders are the labels."""
    return None if examples and labels is None and labels_file is None else read_labels(labels, labels_file)


def read_labels(labels: str | None, labels_file: str | None) -> list[str]:
    """Read labels from --labels or from --labels-file, in any notation that `split_labels` knows.

    Raises:
        InputError: both or neither given, the file cannot be read, or it is no list of labels.
    """
    if (labels is None) == (labels_file is None):
        raise InputError('give the labels either as --labels "cat,dog" or as --labels-file FILE')
    if labels is None:
        return read_labels_file(str(labels_file))
    # In a locale without UTF-8, Python keeps the bytes of arguments as surrogates.
    return split_labels(os.fsencode(labels).decode("utf-8", "surrogateescape"), "--labels")


def open_store(folder: str | None) -> Store | None:
    """Open the store of features; None, with a line that says why, if the default one cannot be used.

    Raises:
        InputError: a folder was named and cannot be used.
    """
    from crossalign.store.shards import Store

    store = Store(folder)
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        if not os.access(store.root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if folder is not None:
            raise InputError(f"store {folder!r} cannot be used ({error.strerror}); name another folder") from None
        click.echo(f"nothing is cached: {str(store.root)!r} cannot be used ({error.strerror}); see --store", err=True)
        return None
    return store


def find_images(paths: Sequence[str]) -> list[str]:
    """Expand files, folders with all subfolders, glob patterns and "-" (a list on standard input).

    What is left out is printed on standard error.

    Raises:
        InputError: a folder or pattern holds no image.
    """
    images: list[str] = []
    passed = PassedOver()
    for path in paths:
        if path == "-":
            images += paths_from_stdin()
        elif glob.has_magic(path) and not Path(path).exists():
            images += _matches(path, passed)
        else:
            images += _expanded(path, passed)
    if passed_over := str(passed):
        click.echo(passed_over, err=True)
    if not images:
        raise InputError("no images were named; give files, folders or patterns")
    return images


def _expanded(path: str, passed: PassedOver) -> list[str]:
    """List the images of a folder; return any other path as it is."""
    if not Path(path).is_dir():
        return [path]
    inside = PassedOver()
    images = [str(image) for image in images_in(Path(path), inside)]
    passed.add(inside)
    if not images:
        left = f"; {inside}" if str(inside) else ""
        packed = any(is_packed(name) for name in inside.others)
        hint = "; tars and Parquet tables are read with --executor ray" if packed else ""
        raise InputError(f"folder {path!r} holds no images{left}{hint}; name another")
    return images


def _matches(pattern: str, passed: PassedOver) -> list[str]:
    """List what a pattern matches, without the leftovers of archives and systems; folders are searched with subfolders."""
    plain = Path(pattern).parts
    named = next(number for number, part in enumerate(plain) if glob.has_magic(part))
    matches = [path for path in sorted(glob.glob(pattern, recursive=True)) if parts_wanted(Path(path).parts[named:], passed)]
    # "photos/**" matches a folder and also what is in it.
    inside = {str(parent) for path in matches for parent in Path(path).parents}
    images = [image for path in matches if path.rstrip("/") not in inside for image in _expanded(path, passed)]
    if not images:
        raise InputError(f"no file matches {pattern!r}; check the pattern")
    return images


def check_output(path: str) -> Path:
    """Check, before long work, that a file can be written there.

    Raises:
        InputError: its folder does not exist or is locked, or it is a folder itself.
    """
    file = Path(path)
    try:
        is_folder, has_folder = file.is_dir(), file.absolute().parent.is_dir()
    except OSError as error:
        raise InputError(f"output {path!r} cannot be written ({error.strerror}); name another file") from None
    if is_folder or not has_folder:
        reason = "it is a folder" if is_folder else "its folder does not exist"
        raise InputError(f"output {path!r} cannot be written, since {reason}; name another file")
    return file


def to_json(content: Any) -> str:
    """Format JSON for people and programs."""
    return json.dumps(content, indent=2, ensure_ascii=False)
