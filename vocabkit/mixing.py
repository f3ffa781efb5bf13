"""Mixing: coefficients over V_shared times the embedding rows of V_shared.

Visual tokens are sums of an LLM's embedding rows (Eq. 4; Eq. 6 with the rows of another LLM), weighted by the
coefficients that an adapter's head gives each patch (Eq. 3). `mix` is the one entry, `choose` the one place that
decides how it is computed.

Sizes: N patches, T rows of V_shared, H hidden width, D width of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.errors import VocabkitError
from vocabkit.streamed_softmax import accumulation_dtype, streamed_softmax_mix

Head = Literal["linear", "softmax"]

DENSE_LIMIT = 2**22
"""Most coefficients (N x T) that the dense softmax path keeps for the backward pass: 16 MiB in float32."""


@dataclass(frozen=True)
class Choice:
    """How `mix` computes one call, and why."""

    path: Literal["unfused", "fused", "dense", "streamed"]
    reason: str


def choose(head: Head, n: int, t: int, h: int, d: int, *, half_precision: bool) -> Choice:
    """The path for `n` patches, `t` rows, hidden width `h` and LLM width `d`.

    Args:
        half_precision: whether hidden or embeddings are bfloat16 or float16.
    """
    if head == "linear":
        # multiply-adds of (hidden @ weight.T) @ embeddings and of hidden @ (weight.T @ embeddings)
        unfused, fused = n * t * (h + d), (t + n) * h * d
        if unfused <= fused:
            return Choice("unfused", f"coefficients first: {unfused:,} multiply-adds, not {fused:,}")
        return Choice("fused", f"weight times embeddings first: {fused:,} multiply-adds, not {unfused:,}")
    if half_precision:
        return Choice("streamed", "half precision is computed in float32: dense would copy weight and embeddings whole")
    if n * t > DENSE_LIMIT:
        return Choice("streamed", f"{n * t:,} coefficients, more than {DENSE_LIMIT:,}: kept a block at a time")
    return Choice("dense", f"{n * t:,} coefficients, at most {DENSE_LIMIT:,}: kept, so backward need not repeat them")


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
    _check(hidden, weight, embeddings, head, bias, temperature)
    rows = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    weight, bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    n, t, h, d = len(rows), *weight.shape, embeddings.shape[1]
    half_precision = hidden.dtype.itemsize == 2 or embeddings.dtype.itemsize == 2
    path = choose(head, n, t, h, d, half_precision=half_precision).path
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


def _check(
    hidden: Tensor, weight: Tensor, embeddings: Tensor, head: str, bias: Tensor | None, temperature: float
) -> None:
    if head not in ("linear", "softmax"):
        raise VocabkitError(f"head {head!r} is unknown; choose linear or softmax")
    if not temperature > 0 or (head == "linear" and temperature != 1.0):
        raise VocabkitError(f"temperature {temperature}: must be positive, and 1 for a linear head")
    fits = (
        hidden.ndim >= 1
        and weight.ndim == embeddings.ndim == 2
        and weight.shape == (embeddings.shape[0], hidden.shape[-1])
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        shapes = {"hidden": hidden, "weight": weight, "embeddings": embeddings, "bias": bias}
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in shapes.items() if tensor is not None)
        raise VocabkitError(
            f"{found} do not fit; expected hidden (..., H), weight (T, H), embeddings (T, D), bias (T,)"
        )
