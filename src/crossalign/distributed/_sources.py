"""Where a cluster's pictures lie: files, tars of files, or tables with their bytes, on any file system that pyarrow knows.

An address is a local path, or a URI such as "s3://bucket/prefix"; its parameters go to the file system, as in
"s3://bucket/prefix?region=eu-central-1" or "...?scheme=http&endpoint_override=localhost:9000".
"""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow
import pyarrow.fs
import pyarrow.parquet

from crossalign.errors import InputError
from crossalign.images.finding import (
    TABLE_SUFFIXES,
    TAR_SUFFIXES,
    PassedOver,
    images_in,
    is_hidden,
    is_leftover,
    is_packed,
    looks_like_image,
    parts_wanted,
    suffix_says,
)
from crossalign.images.inputs import IMAGE_FIELDS, Fetched, ImageLike

ROWS_AT_ONCE = 32
MASKS = (
    "seg",
    "segmentation",
    "semantic",
    "instance",
    "panoptic",
    "mask",
    "annotation",
    "label",
    "depth",
    "normal",
    "alpha",
)
"""Words before the suffix of a tar's member, as in "000.seg.png", that say that it is no photo but belongs to one."""


@dataclass(frozen=True)
class Unit:
    """What one task labels.

    Attributes:
        number: its place among the units.
        addresses: of picture files; or a single one, of a tar or a table.
    """

    number: int
    addresses: tuple[str, ...]

    @property
    def packed(self) -> bool:
        """Whether it is a tar or a table."""
        return _is_packed(self.addresses[0])

    def pictures(self, wanted: Callable[[int], bool]) -> Iterator[ImageLike | None]:
        """Yield its pictures, in order, and None in the place of those that are not wanted, which are not fetched.

        A tar or a table that is broken or missing ends with one that cannot be read, so that the others go on.
        """
        (first, *_), bare = self.addresses, _bare(self.addresses[0]).lower()
        if bare.endswith(TAR_SUFFIXES):
            return _from_tar(first, wanted)
        if bare.endswith(TABLE_SUFFIXES):
            return _from_table(first, wanted)
        return (_from_file(address) if wanted(number) else None for number, address in enumerate(self.addresses))


def is_remote(address: str) -> bool:
    """Whether it is a URI, and no local path."""
    return "://" in address


def _bare(address: str) -> str:
    return address.partition("?")[0] if is_remote(address) else address


def place(address: str) -> tuple[Any, str]:
    """Find the file system of an address, and the path there.

    Raises:
        InputError: no installed package knows its kind, or it cannot be reached.
    """
    if not is_remote(address):
        return pyarrow.fs.LocalFileSystem(), address
    base, _, parameters = address.partition("?")
    scheme, _, rest = base.partition("://")
    try:
        # The path is taken as it stands: in a URI a name's blanks and signs would have to be written as numbers.
        return _file_system(scheme, rest.split("/")[0], parameters), rest
    except Exception as error:
        # Packages of file systems fail in many types.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{address!r} cannot be reached ({reason}); check the address, and what its kind needs") from None


def find_files(addresses: Sequence[str]) -> list[str]:
    """List the files that addresses name, those in a folder in order of their names.

    Raises:
        InputError: a folder holds nothing to label, or pictures stand beside tars or tables.
    """
    passed = PassedOver()
    found = [file for address in addresses for file in _expand(address, passed)]
    if passed_over := str(passed):
        warnings.warn(passed_over, stacklevel=2)
    packed = [_is_packed(file) for file in found]
    if any(packed) and not all(packed):
        loose, pack = found[packed.index(False)], found[packed.index(True)]
        raise InputError(f"{loose!r} is a picture and {pack!r} a file of pictures; label them in two runs")
    return found


def units_of(files: Sequence[str], pictures_a_unit: int) -> list[Unit]:
    """Lay out the work: picture files in groups, and each tar or table by itself."""
    size = 1 if _is_packed(files[0]) else pictures_a_unit
    groups = (files[start : start + size] for start in range(0, len(files), size))
    return [Unit(number, tuple(group)) for number, group in enumerate(groups)]


def _is_packed(address: str) -> bool:
    return is_packed(_bare(address))


def _expand(address: str, passed: PassedOver) -> list[str]:
    files, path = place(address)
    try:
        (about,) = files.get_file_info([path])
        if about.type != pyarrow.fs.FileType.Directory:
            return [address]
        if not is_remote(address):
            names = [str(file) for file in images_in(Path(path), passed, packed=True)]
        else:
            names = _inside(files, path, passed)
    except OSError as error:
        raise InputError(f"{address!r} cannot be read ({' '.join(str(error).split())}); check the address") from None
    if not names:
        raise InputError(f"{address!r} holds nothing to label; give a folder of images, tars or Parquet tables")
    if not is_remote(address):
        return names
    scheme, question, parameters = address.partition("://")[0], *address.partition("?")[1:]
    return [f"{scheme}://{name}{question}{parameters}" for name in names]


def _inside(files: Any, path: str, passed: PassedOver) -> list[str]:
    """List what is to be labelled in a folder elsewhere, by suffix: each file that is opened there costs a request."""
    inside = files.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    names = []
    for name in sorted(file.path for file in inside if file.is_file):
        if not parts_wanted(PurePosixPath(name.removeprefix(path)).parts, passed):
            continue
        if suffix_says(name) or is_packed(name):
            names.append(name)
        else:
            passed.others.append(name)
    return names


@lru_cache(maxsize=16)
def _file_system(scheme: str, host: str, parameters: str) -> Any:
    address = f"{scheme}://{host}/" + (f"?{parameters}" if parameters else "")
    try:
        return pyarrow.fs.FileSystem.from_uri(address)[0]
    except pyarrow.ArrowInvalid:
        from fsspec.core import url_to_fs

        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(url_to_fs(address)[0]))


def _from_file(address: str) -> ImageLike:
    return Fetched(_bare(address), partial(_content, address)) if is_remote(address) else address


def _content(address: str) -> bytes:
    files, path = place(address)
    with files.open_input_file(path) as file:
        content: bytes = file.read()
    return content


def _from_tar(address: str, wanted: Callable[[int], bool]) -> Iterator[ImageLike | None]:
    files, path = place(address)
    name, number = _bare(address), count()
    try:
        with files.open_input_stream(path, compression=None) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                if not _may_be_image(member):
                    continue
                content = b""
                if suffix_says(member.name) is None:
                    content = _content_of(tar, member)
                    if not looks_like_image(content[:16]):
                        continue
                if not wanted(next(number)):
                    yield None
                    continue
                # A tar that is streamed can be read in its order alone, so that nothing is left for later.
                yield Fetched(f"{name}/{member.name}", partial(bytes, content or _content_of(tar, member)))
    except (tarfile.TarError, EOFError, FileNotFoundError) as error:
        yield _broken(name, f"tar {name!r} cannot be read ({' '.join(str(error).split())}); replace it or leave it out")


def _from_table(address: str, wanted: Callable[[int], bool]) -> Iterator[ImageLike | None]:
    files, path = place(address)
    name, number = _bare(address), count()
    try:
        with files.open_input_file(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            column = _image_column(table)
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[column]):
                for cell in batch.column(0):
                    row = next(number)
                    yield _from_cell(cell.as_py(), f"{name}#{row}") if wanted(row) else None
    except (pyarrow.ArrowInvalid, FileNotFoundError, InputError) as error:
        yield _broken(name, f"table {name!r} cannot be read ({' '.join(str(error).split())}); replace it or leave it out")


def _broken(name: str, reason: str) -> Fetched:
    def fetch() -> bytes:
        raise InputError(reason)

    return Fetched(name, fetch)


def _may_be_image(member: tarfile.TarInfo) -> bool:
    """Tell whether a member is a user's file that its name does not tell to be something else."""
    path = PurePosixPath(member.name)
    mask = path.stem.rpartition(".")[2].lower() in MASKS and "." in path.stem
    # A tar of a folder by its absolute path may lie in a hidden one as a whole, so that only a hidden file is left out.
    wanted = not (is_hidden(path.name) or any(map(is_leftover, path.parts)))
    return member.isfile() and suffix_says(path.name) is not False and wanted and not mask


def _content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _from_cell(cell: Any, name: str) -> ImageLike:
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    called = f"{name} {path}" if path else name
    if content:
        return Fetched(called, partial(bytes, content))
    about = f"; its path {path!r} is not opened" if path else ""
    return _broken(called, f"row {name!r} holds no bytes of an image{about}; add them or leave it out")


def _image_column(table: Any) -> str:
    """Find the column of images, as bytes or as structs with the field "bytes", as in datasets of the Hugging Face hub.

    It is the one that is called so; else the only one whose first values are images.

    Raises:
        InputError: there is none, or there are several; names the columns.
    """
    schema = table.schema_arrow
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    named = [column for column in columns if column.lower() in IMAGE_FIELDS]
    if not named and columns:
        first = next(table.iter_batches(ROWS_AT_ONCE, columns=columns), None)
        named = [column for column in columns if first is not None and _begins_with_image(first.column(column))]
    if len(named) != 1:
        which = f"{', '.join(named)} may each be the images" if named else "no column holds bytes of images"
        names = ", ".join(schema.names)
        raise InputError(f"{which}, among the columns {names}; call the one of the images 'image'")
    return str(named[0])


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    struct = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return bool(struct or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _begins_with_image(column: Any) -> bool:
    cells = (cell["bytes"] if isinstance(cell, dict) else cell for cell in column.to_pylist())
    start = next((cell[:16] for cell in cells if cell), b"")
    return looks_like_image(start)
