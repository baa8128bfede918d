"""Ctrl+C: ends a command within two seconds, with a sentence that says how to resume."""

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
"""Seconds that a command may take to end by itself. A pass of a large encoder can take longer."""

EXIT_CODE = 130
"""Exit code that shells report for a process ended by SIGINT."""

AGAIN = "run the same command again to resume"
HOW_TO_RESUME = {
    "ablate": f"finished images are saved, except the last few: {AGAIN}",
    "classify": f"encoded images are cached, unless --no-store was given: {AGAIN}",
    "describe": f"finished classes are saved: {AGAIN}",
    "evaluate": f"finished images are saved, except the last few: {AGAIN}",
    "features": f"finished images are saved, except the last few: {AGAIN}",
    "reproduce": f"finished datasets and images are saved: {AGAIN}",
}
GRACEFUL = ("serve",)
"""Commands that shut down by themselves: they answer waiting requests first."""


class Interrupted(click.ClickException):
    """The user pressed Ctrl+C."""

    exit_code = EXIT_CODE

    def show(self, file: object = None) -> None:
        """Print the message and end the process at once: a regular exit waits seconds for the threads of the encoder."""
        click.echo(self.message, err=True)
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(EXIT_CODE)


def message(command: str | None) -> str:
    """Say how to resume a command that was interrupted."""
    return f"interrupted; {HOW_TO_RESUME.get(command or '', 'run the same command again')}"


@contextmanager
def quick_end(command: Callable[[], str | None]) -> Iterator[None]:
    """Turn SIGINT into `Interrupted`, and end the process if the block does not end within `GRACE` seconds.

    A KeyboardInterrupt alone is not enough: Python raises it only between two of its own instructions, and a pass of an
    encoder or the loading of weights is one long call. Nothing is lost, because files are written atomically.

    Args:
        command: returns the name of the running command, once it is known.
    """
    if threading.current_thread() is not threading.main_thread():  # Only the main thread receives signals.
        yield
        return
    # The wake-up descriptor is written at once, even during a long call.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    interrupted, ended = threading.Event(), threading.Event()
    threading.Thread(target=_watch, args=(reader, interrupted, ended, command), daemon=True).start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        # An interrupt inside an import or a callback may surface as another exception.
        if not (isinstance(error, KeyboardInterrupt) or interrupted.is_set()):
            raise
        # Little is left to do, and a second Ctrl+C must not end it with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ended.set()
        raise Interrupted(message(command())) from None
    finally:
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(
    reader: socket.socket, interrupted: threading.Event, ended: threading.Event, command: Callable[[], str | None]
) -> None:
    """Wait for SIGINT, then for the end of the block; end the process if that takes too long."""
    with reader:
        while (number := reader.recv(1)) != bytes([signal.SIGINT]):
            if not number:
                return
        if command() in GRACEFUL:
            return
        interrupted.set()
        if not ended.wait(GRACE):
            os.write(2, f"\n{message(command())}\n".encode())
            os._exit(EXIT_CODE)
