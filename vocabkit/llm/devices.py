"""The device that models run on, and what to do when they do not fit."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vocabkit.errors import VocabkitError, quote


def open_device(name: str | None = None) -> torch.device:
    """The device called `name`, as torch calls them; without a name cuda, if there is one, else cpu.

    A GPU becomes the current one of this thread, on which kernels and events are made.

    Raises VocabkitError: there is none of that name here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # no such kind, or none of it here
        reason = quote((str(error).splitlines() or [type(error).__name__])[0], 120)
        raise VocabkitError(f"--device {quote(name)}: can't be used here ({reason}); use --device cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raises VocabkitError: a GPU that has no arithmetic in bfloat16, and would emulate it slowly."""
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise VocabkitError(f"{torch.cuda.get_device_name(device)} has no bfloat16; use --dtype float32")


@contextmanager
def fitting_memory(batch: int) -> Iterator[None]:
    """Around work on `batch` things at a time.

    Raises VocabkitError: it does not fit into the memory of the device, with the setting to try.
    """
    try:
        yield
    except RuntimeError as error:  # torch has a class of its own for CUDA only
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        advice = f"use --batch {batch // 2}" if batch > 1 else "use a smaller model, or a device with more memory"
        raise VocabkitError(f"out of memory with --batch {batch}; {advice}") from error


# MERGED: What becomes of memory that is freed on the CPU: kept for what soon needs it again, or given back.

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
