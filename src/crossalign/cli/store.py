"""`crossalign store`: what the store holds, whether it is whole, how to shrink it, and features as one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossalign.cli import _common as common
from crossalign.errors import InputError

if TYPE_CHECKING:
    from crossalign.store.shards import KeptSet

STRAY_SECONDS = 3600
"""A file that is being written is younger than that; an older one is what a killed process left."""

_HASH = 12
"""Digits shown of a digest."""


@click.group()
def command() -> None:
    """List, check, shrink and export what is kept: features, anchors and exported towers.

    \b
    Examples:
      crossalign store list
      crossalign store verify --store features
      crossalign store gc --older-than 30
      crossalign store export 3f9a --output pets.npz
    """


def _options(verb: Callable[..., None]) -> Callable[..., None]:
    return common.store_option(click.option("--json", "as_json", is_flag=True, help="Print JSON.")(verb))


@command.command("list")
@_options
def list_sets(store: str | None, as_json: bool) -> None:
    """List each set: its kind, what made it, its shards, its size, and its age.

    The encoder and the pictures are named by the first digits of their fingerprints.
    """
    sets = _sets(store, quiet=as_json)
    if as_json:
        click.echo(common.to_json([_as_dict(kept) for kept in sets]))
    elif sets:
        from tabulate import tabulate

        rows = [
            [kept.kind, kept.shards.digest[:_HASH], _made_of(kept), len(kept.shards.numbers()), _size(kept), _age(kept)]
            for kept in sets
        ]
        click.echo(tabulate(rows, ["kind", "digest", "made of", "shards", "size", "age"], disable_numparse=True))
        click.echo(f"{len(sets)} sets, {show_bytes(sum(map(_bytes, sets)))}", err=True)


@command.command()
@_options
@click.pass_context
def verify(ctx: click.Context, /, store: str | None, as_json: bool) -> None:
    """Read every shard and compare it with the digest that it carries.

    Damaged ones are named; `crossalign store gc` removes them, and the command that made them makes them again. The exit
    code is 1 if any is damaged.
    """
    sets = [kept for kept in _sets(store, quiet=as_json) if _can_be_judged(kept)]
    checked = sum(len(kept.shards.numbers()) for kept in sets)
    damaged: list[Path] = []
    with common.progress_bar(checked, "shards verified") as bar:
        for kept in sets:
            damaged += _damaged(kept, bar.update)
    if as_json:
        click.echo(common.to_json({"sets": len(sets), "shards": checked, "damaged": [str(file) for file in damaged]}))
    else:
        for file in damaged:
            click.echo(f"{file}: damaged")
        click.echo(f"{checked} shards of {len(sets)} sets verified, {len(damaged)} files damaged", err=True)
    if damaged:
        ctx.exit(1)


@command.command()
@_options
@click.option(
    "--older-than", type=click.FloatRange(0), metavar="DAYS", help="Also whole sets that nothing was added to since."
)
@click.option("--all", "everything", is_flag=True, help="Also all sets, with anchors and towers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def gc(store: str | None, as_json: bool, older_than: float | None, everything: bool, yes: bool) -> None:
    """Remove damaged shards and what killed processes left half written; asks first.

    Nothing else than crossalign's own files is removed. What is missing is made again when it is needed, so do not remove
    a set while another process reads it: that process would have to be started again.
    """
    if everything and older_than is not None:
        raise click.UsageError("--all and --older-than exclude each other; give one of them")
    sets = _sets(store, quiet=as_json)
    doomed = list(_doomed(sets, 0 if everything else None if older_than is None else older_than * 86400))
    removed = 0
    if not doomed:
        click.echo("nothing to remove", err=True)
    else:
        for why in sorted({found.why for found in doomed}):
            files = [found.bytes for found in doomed if found.why == why]
            click.echo(f"{why}: {len(files)} files, {show_bytes(sum(files))}", err=True)
        if not yes:
            click.confirm(f"Remove these {len(doomed)} files?", abort=True, err=True)
        removed = _remove(doomed)
    if as_json:
        click.echo(common.to_json({"removed": [str(found.file) for found in doomed], "bytes": removed}))
    else:
        click.echo(f"{show_bytes(removed)} freed")


@command.command()
@_options
@click.argument("prefix", metavar="DIGEST")
@click.option("--output", required=True, type=click.Path(), help="The .npz or .parquet file to write.")
def export(store: str | None, as_json: bool, prefix: str, output: str) -> None:
    """Write a set as one file: arrays whole (N, D) and views (N, M, D) in the dataset's order.

    DIGEST is what `crossalign store list` shows, or its first digits. NumPy reads .npz; .parquet needs `pip install
    pyarrow` and holds a row a picture. The file appears whole or not at all.
    """
    from crossalign.cli._export import export_set

    file = common.check_output(output)
    kept = _find(prefix, _sets(store, quiet=True), store)
    shapes = export_set(kept, file)
    if as_json:
        click.echo(common.to_json({"digest": kept.shards.digest, "output": str(file), "shapes": shapes}))
    else:
        arrays = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        click.echo(f"{file}: {arrays}; {show_bytes(file.stat().st_size)}")


def show_bytes(count: int) -> str:
    """Say a size for people: "3.2 MB"."""
    if count < 1000:
        return f"{count} bytes"
    size, unit = float(count), iter(("kB", "MB", "GB", "TB"))
    name = ""
    while size >= 999.5 and name != "TB":
        size, name = size / 1000, next(unit)
    return f"{size:.1f} {name} ({count:,} bytes)"


@dataclass(frozen=True)
class _Doomed:
    file: Path
    bytes: int
    why: str


def _sets(store: str | None, quiet: bool) -> list[KeptSet]:
    from crossalign.store.shards import Store

    opened = Store(store)
    sets = opened.sets()
    if not sets and not quiet:
        click.echo(f"{_empty(opened.root)}", err=True)
    return sets


def _empty(root: Path) -> str:
    return f"store {str(root)!r} holds nothing; `crossalign evaluate` fills it, or name another with --store"


def _find(prefix: str, sets: list[KeptSet], store: str | None) -> KeptSet:
    from crossalign.store.shards import SCHEMA, TOWERS, Store, other_schema

    if not sets:
        raise InputError(_empty(Store(store).root))
    found = [kept for kept in sets if prefix and kept.shards.digest.startswith(prefix.lower())]
    if len(found) > 1:
        fits = ", ".join(kept.shards.digest[:_HASH] for kept in found)
        raise InputError(f"digest {prefix!r} fits {len(found)} sets ({fits}); give more of its digits")
    if not found:
        raise InputError(f"no set's digest begins with {prefix!r}; `crossalign store list` shows those that there are")
    if found[0].kind == TOWERS:
        raise InputError(f"{prefix!r} is an exported tower, which holds no features; name a set of another kind")
    if found[0].schema != SCHEMA:
        raise InputError(
            f"{other_schema(found[0].shards.folder, found[0].schema)}; export it with the version that wrote it"
        )
    return found[0]


def _can_be_judged(kept: KeptSet) -> bool:
    """Whether this version knows the layout of a set; says so if not."""
    from crossalign.store.shards import SCHEMA, other_schema

    if kept.schema == SCHEMA:
        return True
    click.echo(f"{other_schema(kept.shards.folder, kept.schema)}: not checked", err=True)
    return False


def _damaged(kept: KeptSet, tick: Callable[[int], object]) -> Iterator[Path]:
    """Name the damaged shards of a set, and its manifest if that is missing or does not belong to it."""
    numbers = kept.shards.numbers()
    if kept.key is None and numbers:
        yield kept.shards.folder / "manifest.json"
    for number in numbers:
        if kept.shards.read(number) is None:
            yield kept.shards.path(number)
        tick(1)


def _doomed(sets: list[KeptSet], seconds: float | None) -> Iterator[_Doomed]:
    """Find what is to be removed: of sets that are at least that old, if a number is given, all."""
    now = time.time()
    for kept in sets:
        files = {file: stat for file in kept.files() if (stat := _stat(file))}
        damaged: set[Path] = set()
        whole = seconds is not None and now - _newest(kept) >= seconds
        if not whole:
            damaged = set(_damaged(kept, lambda _: None)) if _can_be_judged(kept) else set()
        for file, (size, changed) in files.items():
            unfinished = kept.half_written(file)
            # One that seems to come from the future was written before the clock was set back.
            stray = unfinished and abs(now - changed) >= STRAY_SECONDS
            # A young file that is still being written is spared even in a set that goes.
            if stray or file in damaged or (whole and not unfinished):
                yield _Doomed(
                    file, size, "half written" if stray else "damaged" if file in damaged else f"whole {kept.kind}"
                )


def _remove(doomed: list[_Doomed]) -> int:
    removed = 0
    # The manifest goes last: what a killed removal leaves is a set with fewer shards.
    for found in sorted(doomed, key=lambda found: found.file.name == "manifest.json"):
        try:
            found.file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{str(found.file)!r} cannot be removed ({error.strerror}); {removed} bytes were freed before it"
            ) from None
        removed += found.bytes
    # The inner ones first; those stay that hold something else, or that another process has filled again or removed.
    for folder in sorted({found.file.parent for found in doomed}, reverse=True):
        with suppress(OSError):
            folder.rmdir()
    return removed


def _stat(file: Path) -> tuple[int, float] | None:
    try:
        status = file.stat()
    except OSError:  # Another process has finished or removed it.
        return None
    return status.st_size, status.st_mtime


def _bytes(kept: KeptSet) -> int:
    return sum(stat[0] for file in kept.files() if (stat := _stat(file)))


def _size(kept: KeptSet) -> str:
    return show_bytes(_bytes(kept)).split(" (")[0]


def _newest(kept: KeptSet) -> float:
    """When something was last added, in seconds since 1970."""
    return max((stat[1] for file in kept.files() if (stat := _stat(file))), default=0.0)


def _age(kept: KeptSet) -> str:
    minutes = max(0, time.time() - _newest(kept)) / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def _made_of(kept: KeptSet) -> str:
    """Put a set's key in one line."""
    if kept.key is None:
        files = (file.name for file in kept.files() if not kept.half_written(file))
        shown = [name for name in files if name.endswith((".xml", ".bin", "measured.json"))]
        return ", ".join(shown) if shown else "unknown" if kept.shards.numbers() else "checks of runtimes"
    left_out = ("kind", "version", "shard_images", "dtype")
    return ", ".join(f"{name} {_value(value)}" for name, value in kept.key.items() if name not in left_out)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_value(inner)}" for name, inner in value.items()) + ")"
    if isinstance(value, list):
        return f"({len(value)} of them)" if len(value) > 4 else "-".join(map(str, value))
    text = str(value)
    return text[:_HASH] if len(text) >= 32 and " " not in text else text


def _as_dict(kept: KeptSet) -> dict[str, Any]:
    changed = datetime.fromtimestamp(_newest(kept), timezone.utc).isoformat(timespec="seconds")
    shards = kept.shards.numbers()
    return {"kind": kept.kind, "digest": kept.shards.digest, "folder": str(kept.shards.folder), "key": kept.key} | {
        "shards": len(shards),
        "bytes": _bytes(kept),
        "changed": changed,
    }
