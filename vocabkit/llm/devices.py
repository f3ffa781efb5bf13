"""Devices that models run on, and the memory that they take there."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vocabkit.errors import VocabkitError, quote

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""


def open_device(device: str = "auto") -> torch.device:
    """Return the device that torch calls `device`; `auto` is cuda if there is one, else cpu.

    A GPU becomes the current device of this thread, on which kernels and events are created.

    Raises VocabkitError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # an unknown kind of device, or none of that kind here
        reason = quote((str(error).splitlines() or [type(error).__name__])[0], 120)
        raise VocabkitError(f"`device` {quote(device)}: can't be used here ({reason}); use auto or cpu") from error
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raise VocabkitError for bfloat16 on a GPU without it, which would emulate it slowly."""
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise VocabkitError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use `dtype` float32")


@contextmanager
def fitting_memory(batch: int) -> Iterator[None]:
    """Turn out-of-memory errors in the block, which works on `batch` items at a time, into advice.

    Raises VocabkitError: out of memory, with a batch size to try.
    """
    try:
        yield
    except RuntimeError as error:  # only CUDA has an error class of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        advice = f"use `batch` {batch // 2}" if batch > 1 else "use a smaller model, or a device with more memory"
        raise VocabkitError(f"out of memory with `batch` {batch}; {advice}") from error


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
