"""The log file of a run: the command line, warnings, errors with tracebacks, and progress."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence

from crossalign import __version__
from crossalign.errors import InputError

log = logging.getLogger("crossalign")
# Log records do not go to standard error, where commands print what a user needs.
log.addHandler(logging.NullHandler())
log.propagate = False


def open_log(file: str, words: Sequence[str]) -> None:
    """Append log records to a file, starting with the version and the command line.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"log file {file!r} cannot be written ({error.strerror}); choose another") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Warnings and errors of other packages go to the file too.
    handler.addFilter(lambda record: record.name.startswith("crossalign") or record.levelno >= logging.WARNING)
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    others = logging.getLogger()
    others.addHandler(handler)
    if logging.lastResort:
        # Python's handler for records without a handler; without this line, our handler would switch it off.
        others.addHandler(logging.lastResort)
    log.info("crossalign %s: %s", __version__, _without_passwords(shlex.join(["crossalign", *words])))


def _without_passwords(line: str) -> str:
    """Replace user and password in URLs."""
    # Up to the last @ before a slash, because a password may contain one.
    return re.sub(r"://[^/\s]+@", "://***@", line)
