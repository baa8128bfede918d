"""Time the ways that an encoder's tower can be computed in; only on request, since a busy machine changes the outcome."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from crossalign.encoders._choice import write_choice
from crossalign.encoders._runtime import (
    CHECK_VIEWS,
    LEAST_COSINE,
    REFERENCE,
    Check,
    Subject,
    Way,
    example_views,
    machine,
    preferred_ways,
)
from crossalign.errors import InputError

ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Speed and agreement of one way to compute a tower.

    Attributes:
        engine, precision: the way.
        milliseconds: per view, median over rounds.
        cosine: the lowest to the reference.
    """

    engine: str
    precision: str
    milliseconds: float
    cosine: float


def time_runtimes(subject: Subject) -> tuple[list[Timing], Path]:
    """Time every way in f32 and bf16 that can be used here, and store the outcome: runtime "auto" then takes the fastest.

    Returns:
        The timings of those that agree with the reference, the fastest first, then of those that do not, and the file in
        which they are stored. Removing it brings back the choice that `preferred_ways` makes.

    Raises:
        InputError: the outcome cannot be stored.
    """
    check = Check(subject)
    cosines: dict[Way, float] = {REFERENCE: 1.0}
    for precision in ("f32", "bf16"):
        for way in _all_ways(subject, precision):
            try:
                cosines.setdefault(way, check.cosine(way))
            except Exception:  # What cannot be exported has no time; `pick_runtime` says why.
                continue
    views = example_views(subject.tower.preprocessing, CHECK_VIEWS)
    # On a GPU, so few views would time the launches of kernels, not their work.
    views = views if subject.device.type == "cpu" else views.repeat(16, 1, 1, 1)
    seconds: dict[Way, list[float]] = {way: [] for way in cosines}
    for _ in range(1 + ROUNDS):
        # In turns, so that a busy moment slows all ways alike.
        for way, times in seconds.items():
            start = time.perf_counter()
            check.run(way)(views)
            times.append(time.perf_counter() - start)
    timings = [
        Timing(*way, 1000 * statistics.median(times[1:]) / len(views), cosines[way]) for way, times in seconds.items()
    ]
    timings.sort(key=lambda timing: (timing.cosine < LEAST_COSINE, timing.milliseconds))
    file = write_choice(subject.folder, machine(subject.device), [asdict(timing) for timing in timings])
    return timings, file


def _all_ways(subject: Subject, precision: str) -> list[Way]:
    try:
        return preferred_ways(subject.device, "auto", precision)
    except InputError:
        return []
