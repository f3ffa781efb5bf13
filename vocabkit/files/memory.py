"""Set whether glibc's malloc keeps freed memory for the next tensor, or returns it to the kernel at once.

Commands call this first, before torch is imported.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep large freed blocks for reuse; a no-op with another C library.

    By default each tensor of some megabytes is mapped anew, and the kernel zeroes its pages on first touch: for small
    models on a CPU that takes longer than the arithmetic. Peak memory stays the same, but is held until the process
    ends.

    Returns:
        Whether malloc was set.
    """
    return _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> bool:
    """Make glibc's malloc return freed blocks of 128 KiB or more to the kernel at once, and Arrow use malloc.

    For a process that makes one large result, whose temporary blocks would add to its peak memory: by default malloc
    starts to keep large blocks after the first one is freed. Arrow's own pool can only be replaced before Arrow is
    imported. With another C library, only Arrow is changed.

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
