"""Progress of long work: tqdm's bar on a terminal, and else a line now and then; the log file gets the lines too."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EVERY = 10.0
"""Least seconds between two lines."""

log = logging.getLogger("crossalign.progress")


class Heartbeat:
    """Says how far long work is: "12,400 of 50,000 pictures encoded, 41.2/s, 15 min left".

    Args:
        total: how many there will be.
        what: what they are.
        say: is given each line.
        clock: gives seconds.
    """

    def __init__(self, total: int, what: str, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic):
        self._total, self._what, self._say, self._clock = total, what, say, clock
        self._done = 0
        self._start = self._said = clock()
        self._last = -1

    def update(self, n: int) -> None:
        """Report that n more are done; says so if the last line is long enough ago."""
        self._done += n
        if self._clock() - self._said >= EVERY:
            self._line()

    def close(self) -> None:
        """Say how far it came, unless that was said."""
        if self._last != self._done:
            self._line()

    def _line(self) -> None:
        self._said, self._last = self._clock(), self._done
        seconds = self._said - self._start
        parts = [f"{self._done:,} of {self._total:,} {self._what}"]
        if self._done and seconds > 0:
            rate = self._done / seconds
            parts.append(f"{rate:.1f}/s" if rate >= 0.1 else f"{60 * rate:.1f}/min")
            if self._done < self._total:
                parts.append(f"{_duration((self._total - self._done) / rate)} left")
        self._say(", ".join(parts))


class _Bars:
    def __init__(self, bars: list[Any]):
        self._bars = bars

    def update(self, n: int) -> None:
        """Report that n more are done."""
        for bar in self._bars:
            bar.update(n)


@contextmanager
def show_progress(total: int, what: str) -> Iterator[_Bars]:
    """Show rate and time left on standard error, and in the log file if there is one."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(total=total, unit=f" {what}", file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
        bars: list[Any] = [bar, Heartbeat(total, what, log.info)]
    else:
        bars = [Heartbeat(total, what, _print_and_log)]
    try:
        yield _Bars(bars)
    finally:
        for each in bars:
            each.close()


def _print_and_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    log.info(line)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
