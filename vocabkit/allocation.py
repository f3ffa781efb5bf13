"""What becomes of memory that is freed on the CPU: kept for what soon needs it again, or given back."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep large blocks that are freed, instead of giving each back to the kernel.

    By default a tensor of some megabytes is mapped anew each time, and the kernel fills its pages with zeros when they
    are touched: for small models on a CPU that takes longer than the arithmetic. Peak memory stays what it is, but it
    is held until the process ends. Elsewhere than on glibc nothing happens.

    Returns:
        Whether it was set.
    """
    return _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> bool:
    """Have glibc's malloc give each block of 128 KiB or more back to the kernel as soon as it is freed, and Arrow, if
    it is not imported yet, take its memory from there, too, instead of a pool that keeps it.

    By default malloc begins to keep blocks once a large one was freed. For a process that makes one large result, and
    whose other blocks add to its peak memory. Elsewhere than on glibc only Arrow is changed.

    Returns:
        Whether malloc was set.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's own setting, read once
    return _mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def _mallopt(parameter: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(parameter, value))
