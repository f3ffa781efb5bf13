"""Softmax mixing in blocks of the vocabulary, so that the (N, T) coefficients never exist, forward or backward.

`softmax(h W.T + b) E` is attention with queries h, keys W and values E. Blocks of rows are visited once with an online
normaliser: a running reference and sum per patch, and a running mix that is rescaled when the reference is raised
(Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). The backward pass computes the coefficients
of each block again from the normaliser that the forward pass keeps. The two products of a block are GEMMs; what lies
between them is in `elementwise`, or `kernels` on a GPU.

Forward and backward are one operator of torch.library each: `vocabkit::softmax_mix` and its `_backward`. Operators
take plain tensors and numbers, hence their long signatures.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vocabkit.adapter.mixing import elementwise
from vocabkit.adapter.mixing.products import (
    Rows,
    accumulation_dtype,
    block_rows,
    blocks,
    explain_oom,
    multiply,
    operand_dtype,
)

BLOCK_ELEMENTS = {"cuda": 2**27, "cpu": 2**22}
"""Scores of one block over all patches: 512 MiB in float32 on a GPU, 16 MiB elsewhere."""
_LEAST_ROWS, _MOST_ROWS = 512, 8192
"""Rows of a block: enough for matrix products at full speed, few enough for float32 copies of half-precision rows."""


def streamed_softmax_mix(
    hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor | None, temperature: float, *, kernels: bool
) -> Tensor:
    """Return `softmax((hidden @ weight.T + bias) / temperature) @ embeddings`, once differentiable.

    Args:
        hidden: (N, H).
        weight: (T, H).
        embeddings: (T, D).
        bias: (T,) or None.
        kernels: whether Triton computes the steps between the products.

    Returns:
        (N, D) in the dtype of `embeddings`. Memory beyond it: N x D and one block, in float32.
    """
    mixed: Tensor = softmax_mix(hidden, weight, embeddings, bias, temperature, kernels)[0]
    return mixed.to(embeddings.dtype)


@torch.library.custom_op(
    "vocabkit::softmax_mix",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor embeddings, Tensor? bias, float temperature, bool kernels)"
    " -> (Tensor, Tensor)",
)
@explain_oom
def softmax_mix(
    hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor | None, temperature: float, kernels: bool
) -> tuple[Tensor, Tensor]:
    """Return visual tokens (N, D) and the logs of the normalisers (N,), both in the accumulation dtype."""
    n, t, sums = len(hidden), len(weight), _sums(hidden, embeddings)
    steps, block = _elementwise(kernels), _block(n, t, hidden.device)
    w, e = _rows(weight, hidden.dtype, block, sums), _rows(embeddings, embeddings.dtype, block, sums)
    h = hidden.to(w.dtype)
    scores = h.new_empty((n, block), dtype=sums)
    p = scores if e.dtype == sums else h.new_empty((n, block), dtype=e.dtype)
    reference = h.new_full((n,), torch.finfo(sums).min, dtype=sums)  # finite, so that a block of -inf leaves no NaN
    total, stored, rescale = torch.zeros_like(reference), torch.zeros_like(reference), torch.empty_like(reference)
    mixed = h.new_empty((n, embeddings.shape[1]), dtype=sums)
    for rows in blocks(t, block):
        width = slice(0, rows.stop - rows.start)
        s = scores[:, width]
        q = s if p is scores else p[:, width]
        multiply(h, w[rows].T, s)  # (N, H) @ (H, B) -> (N, B)
        steps.softmax_block(s, _part(bias, rows), temperature, reference, total, stored, rescale, q)
        if rows.start:
            steps.rescale_rows(mixed, rescale)
        multiply(q, e[rows], mixed, accumulate=rows.start > 0)  # (N, B) @ (B, D) -> (N, D)
    # Divide by the sum of the rounded weights, so that they add up to 1. With the sum of the unrounded ones, rounding a
    # large weight makes the mean longer or shorter, and the backward pass, which takes <dP, P> from the mean, up to
    # five times less exact.
    return mixed.div_(stored[:, None]), total.log_().add_(reference)


@softmax_mix.register_fake
def _(
    hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor | None, temperature: float, kernels: bool
) -> tuple[Tensor, Tensor]:
    mixed = hidden.new_empty((hidden.shape[0], embeddings.shape[1]), dtype=_sums(hidden, embeddings))
    return mixed, mixed.new_empty((hidden.shape[0],))


@torch.library.custom_op(
    "vocabkit::softmax_mix_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor hidden, Tensor weight, Tensor embeddings, Tensor? bias, Tensor mixed,"
    " Tensor log_total, float temperature, bool kernels, bool[] wanted) -> Tensor[]",
)
@explain_oom
def softmax_mix_backward(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor,
    bias: Tensor | None,
    mixed: Tensor,
    log_total: Tensor,
    temperature: float,
    kernels: bool,
    wanted: list[bool],
) -> list[Tensor]:
    """Return the gradients of those of hidden, weight, embeddings and bias that are `wanted`, in this order."""
    n, t, sums = len(hidden), len(weight), mixed.dtype
    steps, block = _elementwise(kernels), _block(n, t, hidden.device, buffers=2)
    w, e = _rows(weight, hidden.dtype, block, sums), _rows(embeddings, embeddings.dtype, block, sums)
    h, g = hidden.to(w.dtype), gradient.to(e.dtype)
    # softmax backward: dS = P * (dP - <dP, P>), and <dP, P> = <g, mixed>, known without visiting all blocks
    expected = (gradient * mixed).sum(dim=1)
    wants_hidden, wants_weight, wants_embeddings, wants_bias = wanted
    d_hidden = mixed.new_empty(hidden.shape) if wants_hidden else None
    d_weight = torch.empty_like(weight) if wants_weight else None
    d_embeddings = torch.empty_like(embeddings) if wants_embeddings else None
    d_bias = torch.empty_like(bias) if wants_bias and bias is not None else None
    scores, d_p = mixed.new_empty((2, n, block))
    p = scores if e.dtype == sums else mixed.new_empty((n, block), dtype=e.dtype) if wants_embeddings else None
    d_scores = d_p if w.dtype == sums else mixed.new_empty((n, block), dtype=w.dtype)
    for rows in blocks(t, block):
        width = slice(0, rows.stop - rows.start)
        s, dp = scores[:, width], d_p[:, width]
        q = s if p is scores else None if p is None else p[:, width]
        ds = dp if d_scores is d_p else d_scores[:, width]
        w_rows, e_rows = w[rows], e[rows]
        multiply(h, w_rows.T, s)  # (N, H) @ (H, B) -> (N, B)
        multiply(g, e_rows.T, dp)  # (N, D) @ (D, B) -> (N, B)
        steps.gradient_block(s, _part(bias, rows), temperature, log_total, dp, expected, q, ds)
        if d_hidden is not None:
            multiply(ds, w_rows, d_hidden, accumulate=rows.start > 0)  # (N, B) @ (B, H) -> (N, H)
        if d_weight is not None:
            multiply(ds.T, h, d_weight[rows])  # (B, N) @ (N, H) -> (B, H)
        if d_embeddings is not None and q is not None:
            multiply(q.T, g, d_embeddings[rows])  # (B, N) @ (N, D) -> (B, D)
        if d_bias is not None:
            d_bias[rows] = ds.sum(dim=0, dtype=sums)
    if d_hidden is not None:
        d_hidden = d_hidden.to(hidden.dtype)
    return [tensor for tensor in (d_hidden, d_weight, d_embeddings, d_bias) if tensor is not None]


@softmax_mix_backward.register_fake
def _(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor,
    bias: Tensor | None,
    mixed: Tensor,
    log_total: Tensor,
    temperature: float,
    kernels: bool,
    wanted: list[bool],
) -> list[Tensor]:
    inputs = zip((hidden, weight, embeddings, bias), wanted, strict=True)
    return [tensor.new_empty(tensor.shape) for tensor, wants in inputs if wants and tensor is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.temperature, ctx.kernels = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:4])
    found = iter(softmax_mix_backward(gradient, *ctx.saved_tensors, ctx.temperature, ctx.kernels, wanted))
    return *(next(found) if wants else None for wants in wanted), None, None


softmax_mix.register_autograd(_backward, setup_context=_setup_context)


def _elementwise(kernels: bool) -> ModuleType:
    if not kernels:
        return elementwise
    from vocabkit.adapter.mixing import kernels as in_triton

    return in_triton


def _block(n: int, t: int, device: torch.device, buffers: int = 1) -> int:
    elements = BLOCK_ELEMENTS.get(device.type, BLOCK_ELEMENTS["cpu"]) // buffers
    return block_rows(n, t, elements, _LEAST_ROWS, _MOST_ROWS)


def _rows(matrix: Tensor, partner: torch.dtype, block: int, sums: torch.dtype) -> Rows:
    dtype = operand_dtype(torch.promote_types(matrix.dtype, partner), sums, matrix.device)
    return Rows(matrix, block, dtype)


def _sums(hidden: Tensor, embeddings: Tensor) -> torch.dtype:
    return accumulation_dtype(torch.promote_types(hidden.dtype, embeddings.dtype))


def _part(bias: Tensor | None, rows: slice) -> Tensor | None:
    return None if bias is None else bias[rows]
