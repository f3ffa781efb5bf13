"""Visual tokens from coefficients: `mix`, the entry point of mixing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.config import Head
from vocabkit.adapter.mixing import choice
from vocabkit.adapter.mixing.products import accumulation_dtype, check, explain_oom
from vocabkit.adapter.mixing.softmax import streamed_softmax_mix
from vocabkit.adapter.mixing.top import sum_of_rows, top_coefficients
from vocabkit.errors import VocabkitError


def mix(
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor,
    *,
    head: Head,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    top: int | None = None,
) -> Tensor:
    """Return visual tokens (Eq. 3, then Eq. 4 or 6), differentiable in every tensor.

    linear: `(hidden @ weight.T + bias) @ embeddings`, in the dtype of `embeddings`.
    softmax: `softmax((hidden @ weight.T + bias) / temperature) @ embeddings`, with sums and exponentials in float32 if
    operands are of half precision, rounded once at the end; unless they are few, the coefficients of all patches are
    never in memory at once.

    Args:
        hidden: (..., H) floating point, the adapter's last hidden layer.
        weight: (T, H), of the dtype of `hidden`.
        embeddings: (T, D): row t is the embedding of row t of V_shared.
        bias: (T,) or None.
        temperature: positive; only for the softmax head.
        top: keep only this many coefficients of each patch, the largest, renormalised to a sum of 1; only for the
            softmax head, and without gradients. Renormalised, because dropped rows resemble kept rows more than they
            resemble zero: the error is the dropped share times the difference of the two means. Relative error of 64
            of 20,000 rows, for heads that start from embeddings: 0.013 against 0.017 without (SmolLM2-135M, 98.5% of
            the mass kept), 0.035 against 0.102 (Gemma 3 270M, 96.9%).

    Returns:
        (..., D) in the dtype of `embeddings`, which the LLM expects. Autocast has no effect.

    Raises:
        VocabkitError: tensors that do not fit each other, an unknown head, a temperature that is not positive, `top`
            for a linear head or with gradients, or too little memory.
    """
    check(hidden, weight, embeddings, head=head, bias=bias, temperature=temperature)
    if top is not None:
        _check_top(head, (hidden, weight, embeddings, bias))
    rows = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    n, t, h, d = len(rows), *weight.shape, embeddings.shape[1]
    chosen = choice.choose(
        head, n, t, h, d, hidden=hidden.dtype, embeddings=embeddings.dtype, device=hidden.device, top=top
    )
    with torch.autocast(hidden.device.type, enabled=False):
        if top is not None:
            values, kept = top_coefficients(rows, weight, top, head=head, bias=bias, temperature=temperature)
            shares = values / values.sum(dim=1, keepdim=True)
            tokens = sum_of_rows(shares, kept, embeddings, kernels=chosen.kernels)
        elif chosen.path == "streamed":
            tokens = streamed_softmax_mix(rows, weight, embeddings, bias, temperature, kernels=chosen.kernels)
        else:
            tokens = _whole(chosen.path, rows, weight, embeddings, head, bias, temperature)
    return tokens.reshape(*hidden.shape[:-1], d)


def coefficients(
    hidden: Tensor, weight: Tensor, *, head: Head, bias: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Return (..., T) coefficients P of Eq. 3; arguments as for `mix`.

    linear: in the dtype of `hidden`, any real numbers. softmax: in float32 or wider, positive, each patch sums to 1.
    """
    dtype = accumulation_dtype(hidden.dtype) if head == "softmax" else hidden.dtype
    with torch.autocast(hidden.device.type, enabled=False):
        scores = functional.linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        if head == "linear":
            return scores
        return (scores if temperature == 1.0 else scores / temperature).softmax(dim=-1)


@explain_oom
def _whole(
    path: str,
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor,
    head: Head,
    bias: Tensor | None,
    temperature: float,
) -> Tensor:
    """Compute the paths that are a few products of whole matrices: fused, unfused and dense."""
    if path == "fused":
        folded = weight.T.to(embeddings.dtype) @ embeddings  # (H, T) @ (T, D) -> (H, D)
        tokens = hidden.to(embeddings.dtype) @ folded  # (N, H) @ (H, D) -> (N, D)
        return tokens if bias is None else tokens + bias.to(embeddings.dtype) @ embeddings
    p = coefficients(hidden, weight, head=head, bias=bias, temperature=temperature)
    return p.to(embeddings.dtype) @ embeddings  # (N, T) @ (T, D) -> (N, D)


def _check_top(head: Head, tensors: tuple[Tensor | None, ...]) -> None:
    if head != "softmax":
        raise VocabkitError("top is for the softmax head: the coefficients of a linear head do not add up to 1")
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise VocabkitError("top has no gradients: call mix under torch.no_grad(), or without top")
