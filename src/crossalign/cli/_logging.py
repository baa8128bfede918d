"""The log file of a run: what was called, warnings, errors with their tracebacks, progress."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence

from crossalign import __version__
from crossalign.errors import InputError

log = logging.getLogger("crossalign")
# Nothing of it belongs on standard error, where the verbs print what a person needs.
log.addHandler(logging.NullHandler())
log.propagate = False


def open_log(file: str, words: Sequence[str]) -> None:
    """Append from now on to a log file, and begin with the version and the command line.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"log file {file!r} cannot be written ({error.strerror}); name another") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # What other packages log as a warning or worse belongs in it too.
    handler.addFilter(lambda record: record.name.startswith("crossalign") or record.levelno >= logging.WARNING)
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    others = logging.getLogger()
    others.addHandler(handler)
    if logging.lastResort:
        # Python's way to show the others' warnings, which a handler of its own would switch off.
        others.addHandler(logging.lastResort)
    log.info("crossalign %s: %s", __version__, _without_passwords(shlex.join(["crossalign", *words])))


def _without_passwords(line: str) -> str:
    """Blank out the user and password of addresses."""
    # Up to the last @ before a slash, since a password may hold one itself.
    return re.sub(r"://[^/\s]+@", "://***@", line)
