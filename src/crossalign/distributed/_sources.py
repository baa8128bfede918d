"""Where a cluster's pictures lie: files, tars of files, or tables with their bytes, on any file system that pyarrow knows.

An address is a local path, or a URI such as "s3://bucket/prefix"; its parameters go to the file system, as in
"s3://bucket/prefix?region=eu-central-1" or "...?scheme=http&endpoint_override=localhost:9000".
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any

import pyarrow
import pyarrow.fs
import pyarrow.parquet

from crossalign.datasets import PICTURE_SUFFIXES
from crossalign.errors import InputError
from crossalign.images.decoding import Fetched, ImageLike

TAR_SUFFIXES, TABLE_SUFFIXES = (".tar", ".tar.gz", ".tgz"), (".parquet",)
ROWS_AT_ONCE = 32


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
    found = [file for address in addresses for file in _expand(address)]
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
    return _bare(address).lower().endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES))


def _expand(address: str) -> list[str]:
    files, path = place(address)
    try:
        (about,) = files.get_file_info([path])
        if about.type != pyarrow.fs.FileType.Directory:
            return [address]
        inside = files.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise InputError(f"{address!r} cannot be read ({' '.join(str(error).split())}); check the address") from None
    suffixes = (*PICTURE_SUFFIXES, *TAR_SUFFIXES, *TABLE_SUFFIXES)
    names = sorted(file.path for file in inside if file.is_file and file.path.lower().endswith(suffixes))
    if not names:
        raise InputError(f"{address!r} holds nothing to label ({' '.join(suffixes)}); name another")
    if not is_remote(address):
        return names
    scheme, question, parameters = address.partition("://")[0], *address.partition("?")[1:]
    return [f"{scheme}://{name}{question}{parameters}" for name in names]


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
                if member.isfile() and member.name.lower().endswith(PICTURE_SUFFIXES):
                    # A tar that is streamed can be read in its order alone, so that nothing is left for later.
                    file = tar.extractfile(member) if wanted(next(number)) else None
                    yield Fetched(f"{name}/{member.name}", partial(bytes, file.read())) if file else None
    except (tarfile.TarError, EOFError, FileNotFoundError) as error:
        yield _broken(name, f"tar {name!r} cannot be read ({' '.join(str(error).split())}); replace it or leave it out")


def _from_table(address: str, wanted: Callable[[int], bool]) -> Iterator[ImageLike | None]:
    files, path = place(address)
    name, number = _bare(address), count()
    try:
        with files.open_input_file(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            column = _picture_column(table.schema_arrow)
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


def _from_cell(cell: Any, name: str) -> ImageLike:
    content, called = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    return Fetched(f"{name} {called}" if called else name, partial(bytes, content or b""))


def _picture_column(schema: pyarrow.Schema) -> str:
    """Find the column of bytes, as such or as the field "bytes" of a struct, as in datasets of the Hugging Face hub."""
    for field in schema:
        kind = field.type
        struct = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if struct or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            return str(field.name)
    raise InputError(f"no column holds bytes of pictures, but there are {', '.join(schema.names)}")
