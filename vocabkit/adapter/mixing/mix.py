"""Visual tokens from coefficients: `mix`, the entry point of mixing."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.config import Head
from vocabkit.adapter.mixing import choice
from vocabkit.adapter.mixing.products import accumulation_dtype, check, explain_oom
from vocabkit.adapter.mixing.softmax import streamed_softmax_mix
from vocabkit.adapter.mixing.top import top_mix
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
    tolerance: float = 0.0,
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
        top: keep only this many coefficients of each patch, the largest, scaled up to a sum of 1; only for the softmax
            head, and without gradients. Scaled up, because dropped rows resemble kept rows more than zero. Relative
            error of 64 of 20,000 rows, for heads that start from embeddings: 0.013 against 0.017 without
            (SmolLM2-135M, 98.5% of the mass kept), 0.035 against 0.102 (Gemma 3 270M, 96.9%). `top.top_mix` also
            returns the mass that each patch drops.
        tolerance: the largest error of a visual token that is permitted, as a share of the longest row of `embeddings`;
            without gradients. 0 is exact. Else, where there are many coefficients, a patch whose 64 largest hold all
            but tolerance / 2 of the mass is mixed of these: the error of such a token is at most twice the dropped
            mass times the longest row (`top.top_mix`). All other patches are mixed in full, which costs a peaked head
            nothing, and takes a flat one 0.3 longer than without. Rounding to the dtype comes on top, as without.

    Returns:
        (..., D) in the dtype of `embeddings`, which the LLM expects. Autocast has no effect.

    Raises:
        VocabkitError: tensors that do not fit each other, an unknown head, a temperature that is not positive, `top`
            for a linear head or with gradients, a negative `tolerance` or one with gradients or `top`, or too little
            memory.
    """
    check(hidden, weight, embeddings, head=head, bias=bias, temperature=temperature)
    _check_approximation(head, top, tolerance, (hidden, weight, embeddings, bias))
    rows = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    n, t, h, d = len(rows), *weight.shape, embeddings.shape[1]
    dtypes: dict[str, torch.dtype] = {"hidden": hidden.dtype, "embeddings": embeddings.dtype}
    chosen = choice.choose(head, n, t, h, d, **dtypes, device=hidden.device, top=top, tolerance=tolerance)
    with torch.autocast(hidden.device.type, enabled=False):
        if top is not None:
            tokens, _ = top_mix(rows, weight, embeddings, top, bias=bias, temperature=temperature)
        elif chosen.path == "bounded":
            tokens, dropped = top_mix(rows, weight, embeddings, choice.BOUNDED_TOP, bias=bias, temperature=temperature)
            flat = ~(2 * dropped <= tolerance)  # NaN, too
            if flat.any():
                tokens[flat] = mix(rows[flat], weight, embeddings, head=head, bias=bias, temperature=temperature)
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


def _check_approximation(head: Head, top: int | None, tolerance: float, tensors: tuple[Tensor | None, ...]) -> None:
    if not isinstance(tolerance, Real) or isinstance(tolerance, bool) or not 0 <= tolerance < math.inf:
        raise VocabkitError(f"tolerance is {tolerance!r}: must be 0 (exact) or a positive number")
    if top is not None and head != "softmax":
        raise VocabkitError("top is for the softmax head: the coefficients of a linear head do not add up to 1")
    if top is not None and tolerance:
        raise VocabkitError("give top or tolerance, not both: with a tolerance, the coefficients to keep are chosen")
    if top is None and not tolerance:
        return
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        what = "tolerance" if top is None else "top"
        raise VocabkitError(f"{what} has no gradients: call mix under torch.no_grad(), or without {what}")
