"""Top-k coefficients of each patch, exactly, without ever keeping all N x T of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.config import Head
from vocabkit.adapter.mixing import choice
from vocabkit.adapter.mixing.products import (
    Rows,
    accumulation_dtype,
    blocks,
    check,
    explain_oom,
    multiply,
    operand_dtype,
)
from vocabkit.errors import VocabkitError

SCORES = {"cuda": 2**27, "cpu": 2**23}
"""Scores (patches x T) in memory at a time: 512 MiB in float32 on a GPU, 32 MiB elsewhere."""
_COPIED_ROWS = 4096
"""Rows of the weight that are converted at a time, if they must be."""
_GROUP = 64
"""Neighbouring scores that are first compared by their maximum: selecting among T / 64 + 64 k numbers takes a fraction
of the time of selecting among T."""


@torch.no_grad()
@explain_oom
def top_coefficients(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    *,
    head: Head,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the k largest coefficients of each patch and their rows of V_shared.

    Exact, in the accumulation dtype (float32, or float64 for float64), without gradients.

    Args:
        hidden: (..., H) floating point, the adapter's last hidden layer.
        weight: (T, H).
        k: from 1 to T.
        head: softmax: shares, normalised over all T rows, so that k of them sum to at most 1. linear: the
            largest values, not the largest magnitudes.
        bias: (T,) or None.
        temperature: as for `mix`.

    Returns:
        (..., k) coefficients, largest first, and (..., k) int64 row numbers. Ties are broken arbitrarily.

    Raises VocabkitError: k out of range, arguments that `mix` refuses, or too little memory.
    """
    check(hidden, weight, head=head, bias=bias, temperature=temperature)
    if not 1 <= k <= len(weight):
        raise VocabkitError(f"k is {k}: must be from 1 to the {len(weight):,} rows of weight")
    patches = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    n, t, sums = len(patches), len(weight), accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    dtype = operand_dtype(torch.promote_types(hidden.dtype, weight.dtype), sums, hidden.device)
    kernels, _ = choice.elementwise_impl(sums, hidden.device)
    block = t if weight.dtype == dtype else _COPIED_ROWS
    w = Rows(weight, block, dtype)
    values = torch.empty((n, k), dtype=sums, device=hidden.device)
    rows = torch.empty((n, k), dtype=torch.int64, device=hidden.device)
    chunk = max(SCORES.get(hidden.device.type, SCORES["cpu"]) // t, 1)
    buffer = values.new_empty((min(chunk, n), t))
    with torch.autocast(hidden.device.type, enabled=False):
        for part in blocks(n, chunk):
            scores = buffer[: part.stop - part.start]
            for some in blocks(t, block):
                multiply(patches[part].to(dtype), w[some].T, scores[:, some])  # (n, H) @ (H, B) -> (n, B)
            find = _largest_by_kernels if kernels and t // _GROUP > 2 * k else _largest
            values[part], rows[part], log_total = find(scores, bias, temperature, k)
            if head == "softmax":
                values[part] = (values[part] - log_total[:, None]).exp()
    return values.reshape(*hidden.shape[:-1], k), rows.reshape(*hidden.shape[:-1], k)


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `values.topk(k)` of (n, T), faster if T is much larger than k. Ties are broken arbitrarily."""
    groups = values.shape[1] // _GROUP
    if groups <= 2 * k:
        found, columns = values.topk(k, dim=1)
        return found, columns
    maxima = values[:, : groups * _GROUP].unflatten(1, (groups, _GROUP)).amax(dim=2)  # (n, T) -> (n, T / g)
    return _within_groups(values, maxima, None, 1.0, k)


@explain_oom
def sum_of_rows(values: Tensor, rows: Tensor, embeddings: Tensor, *, kernels: bool) -> Tensor:
    """Return weighted sums of embedding rows: `out[n] = sum_k values[n, k] embeddings[rows[n, k]]`.

    Args:
        values: (N, k).
        rows: (N, k) int64.
        embeddings: (T, D).
        kernels: whether Triton computes it.

    Returns:
        (N, D) in the dtype of `embeddings`.
    """
    if not kernels:
        return functional.embedding_bag(rows, embeddings, per_sample_weights=values.to(embeddings.dtype), mode="sum")
    from vocabkit.adapter.mixing import kernels as in_triton

    out = embeddings.new_empty((len(rows), embeddings.shape[1]))
    in_triton.sum_of_rows(values.contiguous(), rows.contiguous(), embeddings, out)
    return out


def _largest(scores: Tensor, bias: Tensor | None, temperature: float, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest of (scores + bias) / temperature (n, T), their rows, and logsumexp over T.

    Overwrites `scores`.
    """
    if bias is not None:
        scores.add_(bias)
    scores.div_(temperature)
    log_total = scores.logsumexp(dim=1)
    return *largest(scores, k), log_total


def _largest_by_kernels(
    scores: Tensor, bias: Tensor | None, temperature: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_largest`, in one pass over `scores`, which are left unchanged."""
    from vocabkit.adapter.mixing import kernels as in_triton

    maxima = scores.new_empty((len(scores), scores.shape[1] // _GROUP))
    log_total = scores.new_empty(len(scores))
    in_triton.group_maxima(scores, bias, temperature, maxima, _GROUP, log_total)
    values, rows = _within_groups(scores, maxima, bias, temperature, k)
    return values, rows, log_total


def _within_groups(
    scores: Tensor, maxima: Tensor, bias: Tensor | None, temperature: float, k: int
) -> tuple[Tensor, Tensor]:
    """Find the k largest in the k groups with the largest maxima, or in the last T % g rows, which are in no group."""
    n, t = scores.shape
    groups = maxima.shape[1]
    best = maxima.topk(k, dim=1, sorted=False).indices  # (n, k)
    inside = (best[:, :, None] * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)  # (n, k g)
    tail = torch.arange(groups * _GROUP, t, device=scores.device).expand(n, -1)
    rows = torch.cat([inside, tail], dim=1)
    candidates = scores.gather(1, rows)
    if bias is not None:
        candidates += bias[rows]
    values, among = candidates.div_(temperature).topk(k, dim=1)
    return values, rows.gather(1, among)
