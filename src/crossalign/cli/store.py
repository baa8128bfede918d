"""`crossalign store`: list, verify, clean up and export cached features."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.cli._help import GroupedCommand
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.store.shards import CachedSet

UNFINISHED_SECONDS = 3600
"""A temporary file older than this was left by a killed process; a younger one may still be written."""

DIGEST_DIGITS = 12
"""Digits of a digest that are shown."""


def read_bytes(text: str) -> int:
    """Read a size such as 500MB or 20GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(k|M|G|T)?B?", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is no size; give one such as 500MB or 20GB")
    return int(float(match[1]) * 1000 ** ("kMGT".index(match[2]) + 1 if match[2] else 0))


@click.group()
def command() -> None:
    """List, verify, clean up and export cached features.

    The store also holds the anchors of the builtin encoder (features of the class names that its classifier knows), and
    encoder towers that were exported for another runtime.

    \b
    Examples:
      crossalign store list
      crossalign store verify --store features
      crossalign store gc --older-than 30
      crossalign store gc --max-size 20GB
      crossalign store export 3f9a --output pets.npz
    """


def _options(function: Callable[..., None]) -> Callable[..., None]:
    return common.store_option(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function))


@command.command("list", cls=GroupedCommand)
@_options
def list_sets(store: str | None, as_json: bool) -> None:
    """List the cached sets: kind, digest, what they were made of, number of shards, size and age.

    Encoder and images are named by the first digits of their fingerprints.
    """
    sets = _sets(store, quiet=as_json)
    if as_json:
        click.echo(common.to_json([_as_dict(cached) for cached in sets]))
    elif sets:
        from tabulate import tabulate

        rows = [
            [
                cached.kind,
                cached.shards.digest[:DIGEST_DIGITS],
                _made_of(cached),
                len(cached.shards.names()),
                show_bytes(_bytes(cached)).split(" (")[0],
                _age(cached),
            ]
            for cached in sets
        ]
        click.echo(tabulate(rows, ["kind", "digest", "made of", "shards", "size", "age"], disable_numparse=True))
        click.echo(f"{len(sets)} sets, {show_bytes(sum(map(_bytes, sets)))}", err=True)


@command.command(cls=GroupedCommand)
@_options
@click.pass_context
def verify(ctx: click.Context, /, store: str | None, as_json: bool) -> None:
    """Read every shard and compare it with the digest of its content.

    Damaged shards are printed. `crossalign store gc` removes them, and the command that made them encodes them again. The
    exit code is 1 if a shard is damaged.
    """
    sets = [cached for cached in _sets(store, quiet=as_json) if _has_known_schema(cached)]
    total = sum(len(cached.shards.names()) for cached in sets)
    damaged: list[Path] = []
    with common.progress_bar(total, "shards verified") as bar:
        for cached in sets:
            damaged += _damaged_files(cached, bar.update)
    if as_json:
        click.echo(common.to_json({"sets": len(sets), "shards": total, "damaged": [str(file) for file in damaged]}))
    else:
        for file in damaged:
            click.echo(f"{file}: damaged")
        click.echo(f"{total} shards of {len(sets)} sets verified, {len(damaged)} files damaged", err=True)
    if damaged:
        ctx.exit(1)


@command.command(cls=GroupedCommand)
@click.option(
    "--older-than", type=click.FloatRange(0), metavar="DAYS", help="Also remove sets without new files for so many days."
)
@click.option(
    "--max-size",
    metavar="SIZE",
    type=read_bytes,
    help="Also remove the files of features that were not used for the longest time, until the store has this size or less: "
    "500MB, 20GB.",
)
@click.option("--all", "everything", is_flag=True, help="Also remove all sets, anchors and towers included.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@_options
def gc(
    store: str | None, as_json: bool, older_than: float | None, max_size: int | None, everything: bool, yes: bool
) -> None:
    """Remove damaged shards and the unfinished files of killed processes; asks for confirmation.

    Only files that crossalign wrote are removed. What is missing is computed again when it is needed. A process
    that reads a set while it is removed encodes the shards again.
    """
    if everything and older_than is not None:
        raise click.UsageError("--all and --older-than exclude each other; give one of them")
    sets = _sets(store, quiet=as_json)
    min_age = 0 if everything else None if older_than is None else older_than * 86400
    removals = list(_removals(sets, min_age))
    if max_size is not None:
        removals += _over_size(sets, removals, max_size)
    freed = 0
    if not removals:
        click.echo("nothing to remove", err=True)
    else:
        for reason in sorted({removal.reason for removal in removals}):
            sizes = [removal.bytes for removal in removals if removal.reason == reason]
            click.echo(f"{reason}: {len(sizes)} files, {show_bytes(sum(sizes))}", err=True)
        if not yes:
            click.confirm(f"Remove these {len(removals)} files?", abort=True, err=True)
        freed = _remove(removals)
    if as_json:
        click.echo(common.to_json({"removed": [str(removal.file) for removal in removals], "bytes": freed}))
    else:
        click.echo(f"{show_bytes(freed)} freed")


@command.command(cls=GroupedCommand)
@click.argument("prefix", metavar="DIGEST")
@click.option("--output", required=True, type=click.Path(), help="The .npz file to write.")
@_options
def export(store: str | None, as_json: bool, prefix: str, output: str) -> None:
    """Write a cached set to one NumPy file, in the dataset's order.

    For images the arrays are "global_view" (N, D), the features of the global views, and "views" (N, M, D), those of the
    local views. DIGEST is the digest that `crossalign store list` shows, or its first digits.
    """
    from crossalign.store.export import export_npz

    file = common.check_output(output)
    if file.suffix.lower() != ".npz":
        raise InputError(f"--output {output!r} does not end in .npz; rename it")
    cached = _find(prefix, _sets(store, quiet=True), store)
    shapes = export_npz(cached, file)
    if as_json:
        click.echo(common.to_json({"digest": cached.shards.digest, "output": str(file), "shapes": shapes}))
    else:
        arrays = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        click.echo(f"{file}: {arrays}; {show_bytes(file.stat().st_size)}")


def show_bytes(count: int) -> str:
    """Format a size: "3.2 MB (3,204,118 bytes)"."""
    if count < 1000:
        return f"{count} bytes"
    size, unit = float(count), iter(("kB", "MB", "GB", "TB"))
    name = ""
    while size >= 999.5 and name != "TB":
        size, name = size / 1000, next(unit)
    return f"{size:.1f} {name} ({count:,} bytes)"


@dataclass(frozen=True)
class _Removal:
    file: Path
    bytes: int
    reason: str


def _sets(store: str | None, quiet: bool) -> list[CachedSet]:
    from crossalign.store.shards import Store

    opened = Store(store)
    sets = opened.sets()
    if not sets and not quiet:
        click.echo(_is_empty(opened.root), err=True)
    return sets


def _is_empty(root: Path) -> str:
    return f"store {str(root)!r} is empty; `crossalign evaluate` fills it, or choose another with --store"


def _find(prefix: str, sets: list[CachedSet], store: str | None) -> CachedSet:
    from crossalign.store.shards import IMAGES, SCHEMA, TOWERS, Store, other_schema

    if not sets:
        raise InputError(_is_empty(Store(store).root))
    matches = [cached for cached in sets if prefix and cached.shards.digest.startswith(prefix.lower())]
    if len(matches) > 1:
        digests = ", ".join(cached.shards.digest[:DIGEST_DIGITS] for cached in matches)
        raise InputError(f"digest {prefix!r} matches {len(matches)} sets ({digests}); give more digits")
    if not matches:
        raise InputError(f"no set's digest begins with {prefix!r}; `crossalign store list` shows the digests")
    (cached,) = matches
    if cached.kind == TOWERS:
        raise InputError(f"{prefix!r} is an exported encoder tower, which holds no features; choose another set")
    if cached.kind == IMAGES:
        raise InputError(
            f"{prefix!r} holds the features of your own images, each with its own number of views; choose another set"
        )
    if cached.schema != SCHEMA:
        raise InputError(f"{other_schema(cached.shards.folder, cached.schema)}; export it with the version that wrote it")
    return cached


def _has_known_schema(cached: CachedSet) -> bool:
    """Whether this version can check a set; prints a line if not."""
    from crossalign.store.shards import SCHEMA, other_schema

    if cached.schema == SCHEMA:
        return True
    click.echo(f"{other_schema(cached.shards.folder, cached.schema)}: not checked", err=True)
    return False


def _damaged_files(cached: CachedSet, report: Callable[[int], object]) -> Iterator[Path]:
    """Yield the damaged shards of a set, and its manifest if that is missing or of another set."""
    numbers = cached.shards.names()
    if cached.key is None and numbers:
        yield cached.shards.folder / "manifest.json"
    for number in numbers:
        if cached.shards.read(number) is None:
            yield cached.shards.path(number)
        report(1)


def _removals(sets: list[CachedSet], min_age: float | None) -> Iterator[_Removal]:
    """Yield what `gc` removes.

    Args:
        sets: all sets of the store.
        min_age: remove whole sets without new files for so many seconds; None removes no whole set.
    """
    now = time.time()
    for cached in sets:
        files = {file: stat for file in cached.files() if (stat := _stat(file))}
        remove_set = min_age is not None and now - _newest(cached) >= min_age
        damaged: set[Path] = set()
        if not remove_set and _has_known_schema(cached):
            damaged = set(_damaged_files(cached, lambda _: None))
        for file, (size, changed) in files.items():
            unfinished = cached.is_unfinished(file)
            # A time in the future means that the clock was set back; such a file is old too.
            abandoned = unfinished and abs(now - changed) >= UNFINISHED_SECONDS
            # A young unfinished file stays even if its set is removed: a process may be writing it.
            if abandoned or file in damaged or (remove_set and not unfinished):
                reason = "unfinished" if abandoned else "damaged" if file in damaged else f"sets of {cached.kind}"
                yield _Removal(file, size, reason)


def _over_size(sets: list[CachedSet], removals: list[_Removal], max_size: int) -> Iterator[_Removal]:
    """Yield the features that were not used for the longest time, until the rest fits; anchors and towers stay."""
    from crossalign.store.shards import ANCHORS, TOWERS

    gone = {removal.file for removal in removals}
    left = {
        file: stat
        for cached in sets
        for file in cached.files()
        if file not in gone and not cached.is_unfinished(file) and (stat := _stat(file))
    }
    shards = {
        file
        for cached in sets
        if cached.kind not in (TOWERS, ANCHORS)
        for file in cached.files()
        if file.suffix == ".safetensors"
    }
    total = sum(size for size, _ in left.values())
    for file in sorted(left.keys() & shards, key=lambda file: (left[file][1], file)):
        if total <= max_size:
            return
        total -= left[file][0]
        yield _Removal(file, left[file][0], f"not used for the longest time, beyond {show_bytes(max_size)}")


def _remove(removals: list[_Removal]) -> int:
    freed = 0
    # Manifests go last, so that an interrupted removal leaves sets with fewer shards but valid manifests.
    for removal in sorted(removals, key=lambda removal: removal.file.name == "manifest.json"):
        try:
            removal.file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{str(removal.file)!r} cannot be removed ({error.strerror}); {freed} bytes were freed before it"
            ) from None
        freed += removal.bytes
    # Inner folders first. A folder stays if it holds other files, or if another process has written to it.
    for folder in sorted({removal.file.parent for removal in removals}, reverse=True):
        with suppress(OSError):
            folder.rmdir()
    return freed


def _stat(file: Path) -> tuple[int, float] | None:
    try:
        status = file.stat()
    except OSError:  # Another process has renamed or removed it.
        return None
    return status.st_size, status.st_mtime


def _bytes(cached: CachedSet) -> int:
    return sum(stat[0] for file in cached.files() if (stat := _stat(file)))


def _newest(cached: CachedSet) -> float:
    """When the newest file was written, in seconds since 1970."""
    return max((stat[1] for file in cached.files() if (stat := _stat(file))), default=0.0)


def _age(cached: CachedSet) -> str:
    minutes = max(0, time.time() - _newest(cached)) / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def _made_of(cached: CachedSet) -> str:
    """Format a set's key as one line."""
    if cached.key is None:
        names = (file.name for file in cached.files() if not cached.is_unfinished(file))
        towers = [name for name in names if name.endswith((".xml", ".bin", "measured.json"))]
        return ", ".join(towers) or ("unknown" if cached.shards.names() else "checks of runtimes")
    left_out = ("kind", "version", "shard_images", "dtype")
    return ", ".join(f"{name} {_value(value)}" for name, value in cached.key.items() if name not in left_out)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_value(inner)}" for name, inner in value.items()) + ")"
    if isinstance(value, list):
        return f"({len(value)} values)" if len(value) > 4 else "-".join(map(str, value))
    text = str(value)
    return text[:DIGEST_DIGITS] if len(text) >= 32 and " " not in text else text


def _as_dict(cached: CachedSet) -> dict[str, Any]:
    return {
        "kind": cached.kind,
        "digest": cached.shards.digest,
        "folder": str(cached.shards.folder),
        "key": cached.key,
        "shards": len(cached.shards.names()),
        "bytes": _bytes(cached),
        "changed": datetime.fromtimestamp(_newest(cached), timezone.utc).isoformat(timespec="seconds"),
    }
