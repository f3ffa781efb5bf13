"""Running out of memory, said in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from vocabkit.errors import VocabkitError

P = ParamSpec("P")
R = TypeVar("R")


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with a VocabkitError that says what helps where memory for a tensor is not to be had."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            problem = f"not enough memory on the GPU: {str(error).partition('. ')[0]}"
        except RuntimeError as error:  # torch's allocator for the CPU has no error of its own
            if "can't allocate memory" not in str(error):
                raise
            problem = f"not enough memory: {str(error).partition('allocate memory: ')[2]}"
        raise VocabkitError(f"{problem.rstrip('.')}; mix fewer patches at a time (a smaller batch), or in bfloat16")

    return wrapped
