"""Matrix products with sums in float32 (or float64), whatever the dtype of the operands."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Blocks have a multiple of so many rows, which keeps the fast GEMM kernels applicable."""

HAS_WIDE_PRODUCTS = torch.version.hip is None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
"""Whether this torch multiplies bfloat16 matrices on CUDA with float32 results and a float32 addend."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums and exponentials are computed in: float32 for half precision, else `dtype`."""
    return dtype if dtype == torch.float64 else torch.float32


def operand_dtype(dtype: torch.dtype, sums: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a matrix of `dtype` is multiplied so that nothing is lost on the way to sums in `sums`.

    bfloat16 stays as it is where the device's GEMM takes it with float32 sums; else blocks of it are copied. float16
    is always copied: gradients of small coefficients are below its range.
    """
    wide = device.type == "cuda" and dtype == torch.bfloat16 and sums == torch.float32 and HAS_WIDE_PRODUCTS
    return dtype if wide else sums


def multiply(a: Tensor, b: Tensor, out: Tensor, *, accumulate: bool = False) -> None:
    """`out = a @ b`, or `out += a @ b`, with sums in the dtype of `out`, or wider.

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
    """Rows of a matrix in the dtype in which they are multiplied: the matrix itself, or one block of it copied."""

    def __init__(self, matrix: Tensor, block: int, dtype: torch.dtype) -> None:
        """At most `block` rows of `matrix` (T, width) at a time."""
        self.dtype = dtype
        self._matrix = matrix
        self._copy = None if matrix.dtype == dtype else matrix.new_empty((block, matrix.shape[1]), dtype=dtype)

    def __getitem__(self, rows: slice) -> Tensor:
        """(rows, width); a copy holds until the next call."""
        found = self._matrix[rows]
        return found if self._copy is None else self._copy[: len(found)].copy_(found)


def block_rows(n: int, t: int, elements: int, least: int, most: int) -> int:
    """How many of `t` rows at a time, so that blocks are alike and `n` patches have about `elements` scores in each."""
    block = min(max(elements // max(n, 1), least), most)
    alike = -(-t // -(-t // block))
    return min(-(-alike // _ALIGNMENT) * _ALIGNMENT, t)


def blocks(rows: int, block: int) -> Iterator[slice]:
    """Slices of at most `block` rows, in order."""
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))
