"""Softmax mixing in blocks of the vocabulary, so that the (N, T) coefficients never exist, forward or backward.

`softmax(h W.T + b) E` is attention with queries h, keys W and values E. Blocks of rows are visited once with an online
normaliser: a running maximum and sum per patch, and a running mix that is rescaled whenever the maximum grows
(Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). The backward pass computes the coefficients
of each block again from the normaliser that the forward pass keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vocabkit.mixing.precision import accumulation_dtype

BLOCK_ELEMENTS = 2**22
"""Scores of one block over all patches: 16 MiB in float32."""
_MIN_BLOCK, _MAX_BLOCK = 512, 8192
"""Rows of a block: enough for matrix products at full speed, few enough for float32 copies of half-precision rows."""


def streamed_softmax_mix(
    hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor | None, temperature: float
) -> Tensor:
    """`softmax((hidden @ weight.T + bias) / temperature) @ embeddings`, once differentiable.

    Args:
        hidden: (N, H).
        weight: (T, H).
        embeddings: (T, D).
        bias: (T,) or None.

    Returns:
        (N, D) in the dtype of `embeddings`. Memory beyond it: a few times N x D and one block, in float32.
    """
    block = min(max(BLOCK_ELEMENTS // max(len(hidden), 1), _MIN_BLOCK), _MAX_BLOCK)
    operands = (hidden, weight, embeddings, bias, temperature, block)
    tokens: Tensor = _StreamedSoftmaxMix.apply(*operands)  # type: ignore[no-untyped-call]
    return tokens


class _StreamedSoftmaxMix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        embeddings: Tensor,
        bias: Tensor | None,
        temperature: float,
        block: int,
    ) -> Tensor:
        dtype = accumulation_dtype(torch.promote_types(hidden.dtype, embeddings.dtype))
        h = hidden.to(dtype) / temperature
        maximum = h.new_full((len(h), 1), torch.finfo(dtype).min)  # finite, so that a block of -inf leaves no NaN
        total = h.new_zeros((len(h), 1))
        mixed = h.new_zeros((len(h), embeddings.shape[1]))
        for rows in _blocks(len(weight), block):
            p = _scores(h, weight, bias, temperature, rows)  # (N, B)
            grown = torch.maximum(maximum, p.amax(dim=1, keepdim=True))
            p.sub_(grown).exp_()
            rescale = (maximum - grown).exp_()
            total.mul_(rescale).add_(p.sum(dim=1, keepdim=True))
            mixed.mul_(rescale).addmm_(p, embeddings[rows].to(dtype))  # (N, B) @ (B, D) -> (N, D)
            maximum = grown
        mixed.div_(total)
        ctx.save_for_backward(hidden, weight, embeddings, bias, mixed, maximum + total.log())
        ctx.temperature, ctx.block = temperature, block
        return mixed.to(embeddings.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, embeddings, bias, mixed, log_total = ctx.saved_tensors
        wants_hidden, wants_weight, wants_embeddings, wants_bias, *_ = ctx.needs_input_grad
        dtype = mixed.dtype
        h = hidden.to(dtype) / ctx.temperature
        g = gradient.to(dtype)
        # softmax backward: dS = P * (dP - <dP, P>), and <dP, P> = <g, mixed>, known without visiting all blocks
        expected = (g * mixed).sum(dim=1, keepdim=True)
        d_hidden = torch.zeros_like(h) if wants_hidden else None
        d_weight = torch.empty_like(weight) if wants_weight else None
        d_embeddings = torch.empty_like(embeddings) if wants_embeddings else None
        d_bias = torch.empty_like(bias) if wants_bias else None
        for rows in _blocks(len(weight), ctx.block):
            p = _scores(h, weight, bias, ctx.temperature, rows).sub_(log_total).exp_()  # (N, B)
            if d_embeddings is not None:
                d_embeddings[rows] = p.T @ g  # (B, N) @ (N, D) -> (B, D)
            if d_hidden is None and d_weight is None and d_bias is None:
                continue
            d_scores = (g @ embeddings[rows].to(dtype).T).sub_(expected).mul_(p)  # (N, D) @ (D, B) -> (N, B)
            if d_hidden is not None:
                d_hidden.addmm_(d_scores, weight[rows].to(dtype))  # (N, B) @ (B, H) -> (N, H)
            if d_weight is not None:
                d_weight[rows] = d_scores.T @ h  # (B, N) @ (N, H) -> (B, H)
            if d_bias is not None:
                d_bias[rows] = d_scores.sum(dim=0) / ctx.temperature
        if d_hidden is not None:
            d_hidden = (d_hidden / ctx.temperature).to(hidden.dtype)
        return d_hidden, d_weight, d_embeddings, d_bias, None, None


def _blocks(rows: int, block: int) -> Iterator[slice]:
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))


def _scores(h: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, rows: slice) -> Tensor:
    """(N, B) scores of a block, a new tensor. `h` is already divided by the temperature."""
    w = weight[rows].to(h.dtype).T  # (H, B)
    return h @ w if bias is None else torch.addmm(bias[rows].to(h.dtype) / temperature, h, w)
