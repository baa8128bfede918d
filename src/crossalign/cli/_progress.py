"""Progress of long work: tqdm's bar on a terminal, otherwise a line every ten seconds; the log file gets lines too."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LINE_SECONDS = 10.0
"""Shortest time between two lines, in seconds."""

log = logging.getLogger("crossalign.progress")


class Heartbeat:
    """Progress as lines: "12,400 of 50,000 images encoded, 41.2/s, 15 min left".

    tqdm cannot do this: it redraws one line, which fills log files with carriage returns.

    Args:
        total: number of items.
        what: what the items are, in words.
        say: called with each line.
        clock: returns a time in seconds.
    """

    def __init__(self, total: int, what: str, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic):
        self._total, self._what, self._say, self._clock = total, what, say, clock
        self._done = 0
        self._start = self._last_time = clock()
        self._last_done = -1

    def update(self, n: int) -> None:
        """Add n finished items."""
        self._done += n
        if self._clock() - self._last_time >= LINE_SECONDS:
            self._line()

    def close(self) -> None:
        """Write the last line, unless it would repeat the one before."""
        if self._last_done != self._done:
            self._line()

    def _line(self) -> None:
        self._last_time, self._last_done = self._clock(), self._done
        seconds = self._last_time - self._start
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
        """Add n finished items."""
        for bar in self._bars:
            bar.update(n)


@contextmanager
def show_progress(total: int, what: str) -> Iterator[_Bars]:
    """Show progress with rate and time left on standard error, and write it to the log file if there is one."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        shown = tqdm(total=total, unit=f" {what}", file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
        bars: list[Any] = [shown, Heartbeat(total, what, log.info)]
    else:
        bars = [Heartbeat(total, what, _print_and_log)]
    try:
        yield _Bars(bars)
    finally:
        for bar in bars:
            bar.close()


def _print_and_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    log.info(line)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
