"""Ctrl+C: a quick end with a sentence that says how to go on."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

GRACE = 1.5
"""Seconds that the work may take to end by itself: a pass of a large encoder is not to be waited for."""

EXIT_CODE = 130
"""What shells give a process that SIGINT ended."""

_AGAIN = "run the same command again to go on"
_HOW_TO_GO_ON = {
    "ablate": f"finished pictures are kept, but for the last few: {_AGAIN}",
    "classify": f"printed labels are complete, go on with the other pictures; with --output {_AGAIN}",
    "describe": f"finished classes are kept: {_AGAIN}",
    "evaluate": f"finished pictures are kept, but for the last few: {_AGAIN}",
    "features": f"finished pictures are kept, but for the last few: {_AGAIN}",
    "reproduce": f"finished datasets and pictures are kept: {_AGAIN}",
}
_END_BY_THEMSELVES = ("serve",)
"""They answer first those who wait."""


class Interrupted(click.ClickException):
    """The user's Ctrl+C."""

    exit_code = EXIT_CODE

    def show(self, file: object = None) -> None:
        """Say it, and end the process there: at a regular end the interpreter waits seconds for the encoder's threads."""
        click.echo(self.message, err=True)
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(EXIT_CODE)


def sentence(verb: str | None) -> str:
    """Say how to go on after a verb was interrupted."""
    return f"interrupted; {_HOW_TO_GO_ON.get(verb or '', 'run the same command again')}"


@contextmanager
def quick_end(verb: Callable[[], str | None]) -> Iterator[None]:
    """Turn SIGINT into `Interrupted`, and end the process where that takes longer than `GRACE`.

    Ending it at once loses nothing: files appear whole or not at all.

    Args:
        verb: tells which one runs, once that is known.
    """
    if threading.current_thread() is not threading.main_thread():  # Signals are none of its business.
        yield
        return
    # Python runs signal handlers between two steps of its own; only this descriptor tells of a signal during a long call.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    seen, ended = threading.Event(), threading.Event()
    threading.Thread(target=_watch, args=(reader, seen, ended, verb), daemon=True).start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        # Code that was interrupted in an import or a callback may make another error of it.
        if not (isinstance(error, KeyboardInterrupt) or seen.is_set()):
            raise
        # What is left to do takes no time, and a second Ctrl+C shall not end it with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ended.set()
        raise Interrupted(sentence(verb())) from None
    finally:
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(reader: socket.socket, seen: threading.Event, ended: threading.Event, verb: Callable[[], str | None]) -> None:
    with reader:
        while (number := reader.recv(1)) != bytes([signal.SIGINT]):
            if not number:
                return
        if verb() in _END_BY_THEMSELVES:
            return
        seen.set()
        if not ended.wait(GRACE):
            os.write(2, f"\n{sentence(verb())}\n".encode())
            os._exit(EXIT_CODE)
