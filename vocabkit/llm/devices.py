"""Devices that models run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vocabkit.errors import VocabkitError, quote


def open_device(device: str = "auto") -> torch.device:
    """Return the device that torch calls `device`; `auto` is cuda if there is one, else cpu. Each process of
    `accelerate launch` or `torchrun` gets a GPU of its own.

    A GPU becomes the current device of this thread, on which kernels and events are created.

    Raises VocabkitError: no such device on this machine.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        device = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
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
def one_thread() -> Iterator[None]:
    """Let torch compute in the block with one thread: where it goes on little at a time, a second one is waited for
    longer than it saves, and many times longer beside other work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
