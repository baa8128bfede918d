"""The images of a cluster: files, tars of files, or tables with their bytes, on file systems of pyarrow and fsspec.

An address is a local path, or a URI such as "s3://bucket/prefix". Its parameters go to the file system:
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
"""Words before the suffix of a tar's member, as in "000.seg.png", that mark it as a mask of a photo."""


@dataclass(frozen=True)
class Unit:
    """The work of one task.

    Attributes:
        number: position among the units.
        addresses: addresses of image files, or the address of one tar or table.
    """

    number: int
    addresses: tuple[str, ...]

    @property
    def packed(self) -> bool:
        """Whether it is a tar or a table."""
        return _is_packed(self.addresses[0])

    def images(self, wanted: Callable[[int], bool]) -> Iterator[ImageLike | None]:
        """Yield the images in order.

        If a tar or a table is damaged or missing, the last image is one that raises an error when it is read; the other
        units are not affected.

        Args:
            wanted: says for the number of an image whether it is needed; if not, it is not fetched, and None stands for it.
        """
        (first, *_), bare = self.addresses, _bare(self.addresses[0]).lower()
        if bare.endswith(TAR_SUFFIXES):
            return _from_tar(first, wanted)
        if bare.endswith(TABLE_SUFFIXES):
            return _from_table(first, wanted)
        return (_from_file(address) if wanted(number) else None for number, address in enumerate(self.addresses))


def is_remote(address: str) -> bool:
    """Whether an address is a URI, not a local path."""
    return "://" in address


def _bare(address: str) -> str:
    return address.partition("?")[0] if is_remote(address) else address


def place(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        InputError: no installed package knows the scheme, or the file system cannot be reached.
    """
    if not is_remote(address):
        return pyarrow.fs.LocalFileSystem(), address
    base, _, parameters = address.partition("?")
    scheme, _, rest = base.partition("://")
    try:
        # The path is used as it is; as part of a URI, blanks and signs in it would have to be escaped.
        return _file_system(scheme, rest.split("/")[0], parameters), rest
    except Exception as error:
        # Packages of file systems raise errors of many types.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{address!r} cannot be reached ({reason}); check the address and the parameters of its file system"
        ) from None


def find_files(addresses: Sequence[str]) -> list[str]:
    """List the files at the addresses; the files of a folder are sorted by name.

    Raises:
        InputError: a folder holds nothing to label, or there are both image files and tars or tables.
    """
    passed = PassedOver()
    files = [file for address in addresses for file in _expand(address, passed)]
    if passed_over := str(passed):
        warnings.warn(passed_over, stacklevel=2)
    packed = [_is_packed(file) for file in files]
    if any(packed) and not all(packed):
        image, package = files[packed.index(False)], files[packed.index(True)]
        raise InputError(f"{image!r} is an image, but {package!r} holds several; label them in two runs")
    return files


def units_of(files: Sequence[str], images_per_unit: int) -> list[Unit]:
    """Divide the work: image files in groups, and each tar or table by itself."""
    size = 1 if _is_packed(files[0]) else images_per_unit
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
    """List the images, tars and tables of a remote folder by their suffixes, because opening a file costs a request."""
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
                # The content is read now, because a streamed tar cannot go back.
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
    """Whether a member is a visible file whose name does not mark it as a mask or as something other than an image."""
    path = PurePosixPath(member.name)
    mask = path.stem.rpartition(".")[2].lower() in MASKS and "." in path.stem
    # A tar made with an absolute path may lie in a hidden folder as a whole, so only hidden files are left out.
    wanted = not (is_hidden(path.name) or any(map(is_leftover, path.parts)))
    return member.isfile() and suffix_says(path.name) is not False and wanted and not mask


def _content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _from_cell(cell: Any, name: str) -> ImageLike:
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    shown_name = f"{name} {path}" if path else name
    if content:
        return Fetched(shown_name, partial(bytes, content))
    about = f"; its path {path!r} is not opened" if path else ""
    return _broken(shown_name, f"row {name!r} holds no bytes of an image{about}; add them or leave it out")


def _image_column(table: Any) -> str:
    """Find the column of images: bytes, or structs with the field "bytes" as in datasets of the Hugging Face hub.

    A column with a usual name, such as "image", is taken; otherwise the only column whose first values are images.

    Raises:
        InputError: there is no such column, or there are several; names the columns.
    """
    schema = table.schema_arrow
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    image_columns = [column for column in columns if column.lower() in IMAGE_FIELDS]
    if not image_columns and columns:
        first = next(table.iter_batches(ROWS_AT_ONCE, columns=columns), None)
        image_columns = [column for column in columns if first is not None and _begins_with_image(first.column(column))]
    if len(image_columns) != 1:
        which = (
            f"{', '.join(image_columns)} may each hold the images" if image_columns else "no column holds bytes of images"
        )
        names = ", ".join(schema.names)
        raise InputError(f"{which}, among the columns {names}; rename the column of the images to 'image'")
    return str(image_columns[0])


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    struct = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return bool(struct or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _begins_with_image(column: Any) -> bool:
    cells = (cell["bytes"] if isinstance(cell, dict) else cell for cell in column.to_pylist())
    start = next((cell[:16] for cell in cells if cell), b"")
    return looks_like_image(start)
