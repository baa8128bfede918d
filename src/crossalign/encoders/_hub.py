"""Fetch from a model hub: use its cache where it cannot be reached, and shorten its libraries' errors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from crossalign.encoders._quiet import quiet_logs, settings_lock


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Where the hub cannot be found, look in its cache at once, instead of warning and retrying for a minute."""
    from huggingface_hub import constants

    with settings_lock, quiet_logs():
        offline = constants.HF_HUB_OFFLINE
        if not offline and not getproxies():
            try:
                socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
            except OSError:
                constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = offline


@contextmanager
def weights_only() -> Iterator[None]:
    """Let torch unpickle only weights, and nothing that runs code, in files that open_clip loads itself.

    open_clip asks for that too, but loads a file again by torch's default if the first time ends in a TypeError, which a
    file can bring about; and an environment variable that many set for old programs makes that default the unsafe one.
    """
    force = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    with settings_lock:
        before = {name: os.environ.pop(name, None) for name in (force, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")}
        os.environ[force] = "1"
        try:
            yield
        finally:
            del os.environ[force]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def reason_of(error: BaseException) -> str:
    """Return the first sentence of an exception's message, on one line."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0].split(". ")[0].rstrip(".:")[:200]
