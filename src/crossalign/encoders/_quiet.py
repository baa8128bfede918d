"""Keep libraries quiet for a while, and leave the process's logging as it was."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

one_at_a_time = threading.RLock()
"""Held by whoever changes a setting of the process for a while, so that it is set back to what it was."""


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Hold back what libraries log up to errors."""
    with one_at_a_time:
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
