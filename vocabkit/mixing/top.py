"""The k largest coefficients of each patch, exactly, without ever keeping all N x T of them."""

from __future__ import annotations

import torch
from torch import Tensor

from vocabkit.errors import VocabkitError
from vocabkit.mixing.operands import Head, check
from vocabkit.mixing.precision import accumulation_dtype

SCORES = 2**24
"""Scores (patches x T) that are in memory at a time: 64 MiB in float32."""
_ROWS = 4096
"""Rows of the weight that are copied to the accumulation dtype at a time, where theirs is another."""
_GROUP = 64
"""Neighbouring scores that are first compared by their largest. Sorting T / 64 + 64 k numbers takes a fraction of the
time of sorting T."""


@torch.no_grad()
def top_coefficients(
    hidden: Tensor,
    weight: Tensor,
    k: int,
    *,
    head: Head,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The k largest coefficients of each patch, and the rows of V_shared that they belong to.

    They are exact and in the accumulation dtype (float32, or float64 for float64). No gradient flows through them.

    Args:
        hidden: (..., H) floating point, of the adapter's last hidden layer.
        weight: (T, H).
        k: how many, from 1 to T.
        head: softmax: largest shares, normalised over all T rows, so that k of them sum to at most 1. linear: largest
            values; large negative ones are not among them.
        bias: (T,) or None.
        temperature: as for `mix`.

    Returns:
        (..., k) coefficients, largest first, and (..., k) int64 row numbers. Which of equal ones are taken and in
        which order is not defined.

    Raises VocabkitError: k out of range, or arguments that `mix` refuses.
    """
    check(hidden, weight, head=head, bias=bias, temperature=temperature)
    if not 1 <= k <= len(weight):
        raise VocabkitError(f"k is {k}: must be from 1 to the {len(weight):,} rows of weight")
    patches = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    n, t = len(patches), len(weight)
    values = torch.empty((n, k), dtype=accumulation_dtype(hidden.dtype), device=hidden.device)
    rows = torch.empty((n, k), dtype=torch.int64, device=hidden.device)
    chunk = max(SCORES // t, 1)
    buffer = values.new_empty((min(chunk, n), t))
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            scores = buffer[: part.stop - part.start]
            _scores(patches[part], weight, bias, temperature, scores)
            values[part], rows[part] = _largest(scores, k)
            if head == "softmax":
                values[part] = (values[part] - scores.logsumexp(dim=1, keepdim=True)).exp()
    return values.reshape(*hidden.shape[:-1], k), rows.reshape(*hidden.shape[:-1], k)


def _scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, out: Tensor) -> None:
    """(n, H) -> (n, T) into `out`, in its dtype."""
    h = hidden.to(out.dtype) / temperature
    block = len(weight) if weight.dtype == out.dtype else _ROWS
    for start in range(0, len(weight), block):
        torch.mm(h, weight[start : start + block].to(out.dtype).T, out=out[:, start : start + block])
    if bias is not None:
        out.add_(bias.to(out.dtype) / temperature)


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(k)` of (n, T). The k largest lie in the k groups whose largest scores are largest."""
    n, t = scores.shape
    groups = t // _GROUP
    if groups <= 2 * k:
        values, rows = scores.topk(k, dim=1)
        return values, rows
    grouped = scores[:, : groups * _GROUP].unflatten(1, (groups, _GROUP))  # (n, T) -> (n, T / g, g)
    best = grouped.amax(dim=2).topk(k, dim=1, sorted=False).indices  # (n, k)
    inside = grouped.gather(1, best[:, :, None].expand(n, k, _GROUP))  # (n, k, g)
    tail = torch.arange(groups * _GROUP, t, device=scores.device).expand(n, -1)  # rows of no group
    columns = (best[:, :, None] * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)
    values, among = torch.cat([inside.flatten(1), scores[:, groups * _GROUP :]], dim=1).topk(k, dim=1)
    return values, torch.cat([columns, tail], dim=1).gather(1, among)
