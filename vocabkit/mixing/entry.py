"""`mix`, the one entry, and the coefficients themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.mixing import choice
from vocabkit.mixing.operands import Head, check
from vocabkit.mixing.precision import accumulation_dtype
from vocabkit.mixing.streamed import streamed_softmax_mix


def mix(
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor,
    *,
    head: Head,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Visual tokens (Eq. 3, then Eq. 4 or 6), differentiable in every tensor.

    linear: `(hidden @ weight.T + bias) @ embeddings`, in the dtype of `embeddings`.
    softmax: `softmax((hidden @ weight.T + bias) / temperature) @ embeddings`, in float32 if operands are of half
    precision, rounded once at the end; the coefficients of all patches are never in memory at once unless they are few.

    Args:
        hidden: (..., H) floating point, of the adapter's last hidden layer.
        weight: (T, H), taken in the dtype of `hidden`.
        embeddings: (T, D): row t is the embedding of row t of V_shared.
        bias: (T,) or None, taken in the dtype of `hidden`.
        temperature: positive; only for the softmax head.

    Returns:
        (..., D) in the dtype of `embeddings`, in which the LLM takes them. Autocast has no influence.

    Raises:
        VocabkitError: shapes that do not fit, an unknown head, or a temperature that is not positive.
    """
    check(hidden, weight, embeddings, head=head, bias=bias, temperature=temperature)
    rows = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    weight, bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    n, t, h, d = len(rows), *weight.shape, embeddings.shape[1]
    half_precision = hidden.dtype.itemsize == 2 or embeddings.dtype.itemsize == 2
    path = choice.choose(head, n, t, h, d, half_precision=half_precision).path
    with torch.autocast(hidden.device.type, enabled=False):
        if path == "streamed":
            tokens = streamed_softmax_mix(rows, weight, embeddings, bias, temperature)
        elif path == "fused":
            folded = weight.T.to(embeddings.dtype) @ embeddings  # (H, T) @ (T, D) -> (H, D)
            tokens = rows.to(embeddings.dtype) @ folded
            if bias is not None:
                tokens = tokens + bias.to(embeddings.dtype) @ embeddings
        else:
            p = coefficients(rows, weight, head=head, bias=bias, temperature=temperature)
            tokens = p.to(embeddings.dtype) @ embeddings  # (N, T) @ (T, D) -> (N, D)
    return tokens.reshape(*hidden.shape[:-1], embeddings.shape[1])


def coefficients(
    hidden: Tensor, weight: Tensor, *, head: Head, bias: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """(..., T) coefficients P of Eq. 3. Arguments as for `mix`.

    linear: in the dtype of `hidden`, any real numbers. softmax: in float32 or wider, positive, each patch sums to 1.
    """
    dtype = accumulation_dtype(hidden.dtype) if head == "softmax" else hidden.dtype
    with torch.autocast(hidden.device.type, enabled=False):
        scores = functional.linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        return scores if head == "linear" else (scores / temperature).softmax(dim=-1)
