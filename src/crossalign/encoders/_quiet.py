"""Keep libraries quiet for a while, and leave the process's logging as it was."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

settings_lock = threading.RLock()
"""Lock for temporary changes of the process's settings, so that each is restored to its old value."""


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Suppress log messages of libraries up to the level of errors."""
    with settings_lock:
        root = logging.getLogger()
        disabled = root.manager.disable
        # Without any handler, open_clip's calls of logging.info() would configure the root logger.
        nothing = logging.NullHandler()
        root.addHandler(nothing)
        logging.disable(max(disabled, logging.ERROR))
        try:
            yield
        finally:
            logging.disable(disabled)
            root.removeHandler(nothing)
