"""Matrix products of mixing: operands that fit, sums in float32 or float64, and advice when memory runs out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from vocabkit.adapter.config import check_head
from vocabkit.errors import VocabkitError

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_ALIGNMENT = 64
"""Blocks have a multiple of this many rows, so that the fast GEMM kernels apply."""

HAS_WIDE_PRODUCTS = torch.version.hip is None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
"""Whether this torch multiplies bfloat16 matrices on CUDA with float32 results and a float32 addend."""


def check(
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor | None = None,
    *,
    head: str,
    bias: Tensor | None,
    temperature: float,
) -> None:
    """Check the arguments of `mix`.

    Raises:
        VocabkitError: an unknown head, a wrong temperature, or tensors that do not fit each other.
        TypeError: something other than tensors.
    """
    check_head(head, temperature)
    given = {"hidden": hidden, "weight": weight, "embeddings": embeddings, "bias": bias}
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` is {type(tensor).__name__}; expected a tensor of torch")
    fits = (
        hidden.ndim >= 1
        and weight.ndim == 2
        and len(weight) > 0
        and weight.shape[1] == hidden.shape[-1]
        and (embeddings is None or (embeddings.ndim == 2 and len(embeddings) == len(weight)))
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise VocabkitError(
            f"{found} do not fit; expected hidden (..., H), weight (T, H), embeddings (T, D), bias (T,), T at least 1"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise VocabkitError(
                f"{name} is {_short(tensor.dtype)}; convert it to bfloat16, float32, float64 or float16"
            )
        if tensor.device != hidden.device:
            raise VocabkitError(f"{name} is on {tensor.device}, but hidden on {hidden.device}; move them together")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and exponentials: float32 for half precision, else `dtype`."""
    return dtype if dtype == torch.float64 else torch.float32


def operand_dtype(dtype: torch.dtype, sums: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which a matrix of `dtype` is multiplied without losing precision before sums in `sums`.

    bfloat16 is kept where the device's GEMM takes it with float32 sums; else blocks of it are converted. float16 is
    always converted: gradients of small coefficients are below its range.
    """
    wide = device.type == "cuda" and dtype == torch.bfloat16 and sums == torch.float32 and HAS_WIDE_PRODUCTS
    return dtype if wide else sums


def multiply(a: Tensor, b: Tensor, out: Tensor, *, accumulate: bool = False) -> None:
    """Compute `out = a @ b`, or `out += a @ b`, with sums in the dtype of `out` or wider.

    Args:
        a: (M, K).
        b: (K, N), of the dtype of `a`.
        out: (M, N), contiguous in its last dimension.
    """
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, out=out) if accumulate else torch.mm(a, b, out=out)
    elif a.dtype == torch.bfloat16 and a.device.type == "cuda":
        if accumulate:
            torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
        else:
            torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:
        wide = torch.promote_types(a.dtype, out.dtype)
        product = a.to(wide) @ b.to(wide)
        out.add_(product) if accumulate else out.copy_(product)


class Rows:
    """Rows of a matrix in the dtype of the product: the matrix itself, or one converted block at a time."""

    def __init__(self, matrix: Tensor, block: int, dtype: torch.dtype) -> None:
        """At most `block` rows of `matrix` (T, width) at a time."""
        self.dtype = dtype
        self._matrix = matrix
        self._copy = None if matrix.dtype == dtype else matrix.new_empty((block, matrix.shape[1]), dtype=dtype)

    def __getitem__(self, rows: slice) -> Tensor:
        """Return (rows, width); a converted block is valid until the next call."""
        found = self._matrix[rows]
        return found if self._copy is None else self._copy[: len(found)].copy_(found)


def block_rows(n: int, t: int, elements: int, least: int, most: int) -> int:
    """Return the rows per block: blocks of equal size, in which `n` patches have about `elements` scores."""
    block = min(max(elements // max(n, 1), least), most)
    alike = -(-t // -(-t // block))
    return min(-(-alike // _ALIGNMENT) * _ALIGNMENT, t)


def blocks(rows: int, block: int) -> Iterator[slice]:
    """Yield slices of at most `block` rows, in order."""
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))


def explain_oom(function: Callable[P, R]) -> Callable[P, R]:
    """Make `function` raise a VocabkitError with advice when memory for a tensor runs out."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            problem = f"not enough memory on the GPU: {str(error).partition('. ')[0]}"
        except RuntimeError as error:  # torch's CPU allocator has no error class of its own
            if "can't allocate memory" not in str(error):
                raise
            problem = f"not enough memory: {str(error).partition('allocate memory: ')[2]}"
        raise VocabkitError(f"{problem.rstrip('.')}; mix fewer patches at a time (a smaller batch), or in bfloat16")

    return wrapped
