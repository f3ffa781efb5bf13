"""Memory that torch frees on the CPU and soon needs again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep large blocks that are freed, instead of giving each back to the kernel.

    By default a tensor of some megabytes is mapped anew each time, and the kernel fills its pages with zeros when they
    are touched: for small models on a CPU that takes longer than the arithmetic. Peak memory stays what it is, but it
    is held until the process ends. Elsewhere than on glibc nothing happens.

    Returns:
        Whether it was set.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
