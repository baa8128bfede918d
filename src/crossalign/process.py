"""Settings of the process that make encoding faster; the command line makes them, and importing crossalign does not."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def tune_process() -> None:
    """Set up this process for encoding on a CPU. A program that owns its process can do so too, before it imports torch.

    - OMP_WAIT_POLICY becomes PASSIVE unless it is set: torch's threads would spin for a while when they are out of work, and
      take the cores from decoding threads or another runtime. Only heard if torch has not been imported yet.
    - On Linux, glibc gives freed blocks out again instead of returning them to the kernel. Each activation of a batch is a
      block of tens of megabytes; mapped anew for every layer, its pages cost the kernel nearly as much time as the layer
      costs the processor.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
