"""The console: characters that it lacks are escaped, a warning is one line, and lists are read from standard input."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import warnings

log = logging.getLogger("crossalign")


def set_up_console() -> None:
    """Prepare the streams and the warnings of this process; the command line owns it, the library does not."""
    codecs.register_error("crossalign", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="crossalign")
    warnings.showwarning = _show_warning
    # PIL warns of broken EXIF and of large images; it names no file, and what cannot be read becomes an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _escaped(error: UnicodeError) -> tuple[bytes, int]:
    """Write characters that an encoding lacks as \\uXXXX, as JSON does; bytes of a file name that are not text stay."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = []
    for letter in error.object[error.start : error.end]:
        if "\udc80" <= letter <= "\udcff":
            parts.append(letter.encode("ascii", "surrogateescape"))
        else:
            units = letter.encode("utf-16-be", "surrogatepass")
            parts += [b"\\u%02x%02x" % (units[i], units[i + 1]) for i in range(0, len(units), 2)]
    return b"".join(parts), error.end


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"Warning: {message}", file=sys.stderr)
    log.warning("%s", message)


def paths_from_stdin() -> list[str]:
    """Read a list of paths: one per line, or separated by NUL as `find -print0` writes them.

    Blanks at the ends of a name belong to it. LF and CRLF end a line, and a byte order mark is not part of a name, so lists
    from Windows work. Names that contain a line end need NUL as separator.
    """
    content = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else os.fsencode(sys.stdin.read())
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Windows PowerShell redirects into UTF-16.
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    lines = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [_path(line) for line in lines if line.strip()]


def _path(line: bytes) -> str:
    try:
        return os.fsdecode(line)
    except UnicodeDecodeError:  # On Windows, where paths are UTF-8 but older programs write the code page of the console.
        return line.decode(sys.stdin.encoding or "utf-8", "replace")
