"""Choice of the path that computes a call of `mix`, with its reason. The only place that decides."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch

from vocabkit.adapter.config import Head
from vocabkit.adapter.mixing.products import HAS_WIDE_PRODUCTS, accumulation_dtype, operand_dtype

_HAS_TRITON = importlib.util.find_spec("triton") is not None
BOUNDED_TOP = 64
"""Coefficients that the bounded path keeps of each patch."""
DENSE_LIMIT = 2**22
"""Most coefficients (N x T) that the dense softmax path keeps for the backward pass: 16 MiB in float32."""


@dataclass(frozen=True)
class Choice:
    """The path of one call of `mix`, and why."""

    path: Literal["unfused", "fused", "dense", "streamed", "top", "bounded"]
    kernels: bool
    """Whether Triton kernels compute the element-wise steps between the matrix products."""
    reason: str


def choose(
    head: Head,
    n: int,
    t: int,
    h: int,
    d: int,
    *,
    hidden: torch.dtype,
    embeddings: torch.dtype,
    device: torch.device,
    top: int | None = None,
    tolerance: float = 0.0,
) -> Choice:
    """Choose the path for `n` patches, `t` rows, hidden width `h` and LLM width `d`.

    Takes plain sizes and dtypes, not tensors, so that `doctor` can ask about calls that it does not make.

    Args:
        hidden: dtype of hidden and weight.
        embeddings: dtype of the embeddings.
        device: of all tensors.
        top: coefficients to keep of each patch; None for all.
        tolerance: error permitted, as for `mix`.
    """
    if head == "linear":
        # multiply-adds of (hidden @ weight.T) @ embeddings and of hidden @ (weight.T @ embeddings)
        unfused, fused = n * t * (h + d), (t + n) * h * d
        if unfused <= fused:
            return Choice("unfused", False, "coefficients first, then embeddings: fewer multiply-adds for few patches")
        return Choice("fused", False, "weight times embeddings first: fewer multiply-adds for so many patches")
    sums = accumulation_dtype(torch.promote_types(hidden, embeddings))
    kernels, how = elementwise_impl(sums, device)
    how = "; ".join(part for part in (_operands({hidden, embeddings}, sums, device), how) if part)
    how = f"; {how}" if how else ""
    if top is not None:
        return Choice("top", kernels, f"the {top} largest coefficients of each patch are wanted{how}")
    # With d < h the second product, which the bounded path saves, is the smaller one.
    if tolerance > 0 and n * t > DENSE_LIMIT and t > BOUNDED_TOP and d >= h:
        return Choice("bounded", kernels, f"the {BOUNDED_TOP} largest coefficients where the error permits{how}")
    if n * t > DENSE_LIMIT:
        return Choice("streamed", kernels, f"more than {DENSE_LIMIT:,} coefficients: a block at a time{how}")
    if min(hidden.itemsize, embeddings.itemsize) == 2:
        return Choice("streamed", kernels, f"dense would copy weight and embeddings whole to float32{how}")
    return Choice("dense", False, f"at most {DENSE_LIMIT:,} coefficients: kept, not computed again for the gradient")


def _operands(dtypes: set[torch.dtype], sums: torch.dtype, device: torch.device) -> str:
    """Say how half-precision matrices are multiplied with sums in float32; empty if there are none."""
    half = [dtype for dtype in sorted(dtypes, key=str) if dtype.itemsize == 2]
    copied = [str(dtype).removeprefix("torch.") for dtype in half if operand_dtype(dtype, sums, device) != dtype]
    if not copied:
        return "bfloat16 products with float32 sums" if half else ""
    names = " and ".join(copied)
    if device.type == "cuda" and "float16" in copied:
        return f"{names} rows are copied a block at a time: float16 has too little range (bfloat16 is faster)"
    if device.type == "cuda" and not HAS_WIDE_PRODUCTS:
        return f"{names} rows are copied a block at a time: bfloat16 with float32 sums needs torch 2.13 for CUDA"
    return f"{names} rows are copied a block at a time to {str(sums).removeprefix('torch.')}"


def elementwise_impl(sums: torch.dtype, device: torch.device) -> tuple[bool, str]:
    """Return whether Triton kernels compute the element-wise steps with sums in `sums`, and why."""
    if device.type != "cuda":
        return False, ""
    if sums != torch.float32:
        return False, "element-wise steps in torch: the kernels are for sums in float32"
    if not _HAS_TRITON:
        return False, "element-wise steps in torch, which is slower: pip install triton"
    return True, "element-wise steps in Triton"
