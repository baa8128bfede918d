"""Keep freed memory in the process."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Tell glibc to hand freed blocks out again instead of returning them to the kernel.

    Each activation of a batch is a block of tens of megabytes; mapped anew for every layer, its pages cost the kernel
    nearly as much time as the layer costs the processor. Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
