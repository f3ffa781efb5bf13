"""Top-k coefficients of each patch, exactly, in one pass over the rows of the head that never keeps all N x T of them.

A block of rows at a time gives scores, the running normaliser, and the scores that exceed the k-th largest so far: few
after the first blocks. On a GPU with half-precision operands one Triton kernel does a block's work, products included.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.config import Head
from vocabkit.adapter.mixing import choice
from vocabkit.adapter.mixing.elementwise import GROWTH
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

SCORES = {"cuda": 2**27, "cpu": 2**22}
"""Scores (patches x rows of a block) in memory at a time: 512 MiB in float32 on a GPU, elsewhere 16 MiB, which stay in
the processor's cache."""
_ROWS = {"cuda": 2**15, "cpu": 2**12}
"""Rows of a block at least, if there are as many: the k-th largest score of the first block is then a useful bound."""
_GROUP = 32
"""Neighbouring scores that are first compared by their maximum. 64 give twice the candidates; of 16, torch is slow to
find the maximum."""
_MERGE = 1.5
"""Candidates are merged whenever this many times the rows of the last merge are done."""


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
    if not isinstance(k, Integral) or isinstance(k, bool) or not 1 <= k <= len(weight):
        raise VocabkitError(f"k is {k!r}: must be a whole number from 1 to the {len(weight):,} rows of weight")
    patches = hidden.reshape(-1, hidden.shape[-1])  # (..., H) -> (N, H)
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    sums = accumulation_dtype(dtype)
    kernels, _ = choice.elementwise_impl(sums, hidden.device)
    half = hidden.dtype == weight.dtype == operand_dtype(dtype, sums, hidden.device) != sums
    values = torch.empty((len(patches), k), dtype=sums, device=hidden.device)
    rows = torch.empty((len(patches), k), dtype=torch.int64, device=hidden.device)
    find = _by_kernel if kernels and half else _in_blocks
    with torch.autocast(hidden.device.type, enabled=False):
        for part in blocks(len(patches), _patches(len(weight), k, hidden.device)):
            values[part], rows[part], log_total = find(patches[part], weight, bias, temperature, k)
            if head == "softmax":
                values[part] = (values[part] - log_total[:, None]).exp()
    return values.reshape(*hidden.shape[:-1], k), rows.reshape(*hidden.shape[:-1], k)


@torch.no_grad()
def top_mix(
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return visual tokens of the k largest coefficients, and the mass that each patch drops.

    The kept coefficients are scaled up to a sum of 1. With dropped mass d, and the means m and m' of kept and dropped
    rows, each weighted by its coefficients, the exact visual token is (1 - d) m + d m', and the one returned is m. The
    error is d |m' - m|; a mean is no longer than the longest row, so it is **at most 2 d max |embeddings[t]|**.

    Args: as for `mix` with a softmax head; `k` is its `top`.

    Returns:
        (..., D) in the dtype of `embeddings`, and (...,) dropped mass, from 0 to 1, in the accumulation dtype. As the
        rest of a sum of 1, it is known to 1e-6 or so in float32.

    Raises VocabkitError: as `top_coefficients`.
    """
    check(hidden, weight, embeddings, head="softmax", bias=bias, temperature=temperature)
    values, rows = top_coefficients(hidden, weight, k, head="softmax", bias=bias, temperature=temperature)
    kept = values.sum(dim=-1, keepdim=True)
    kernels, _ = choice.elementwise_impl(accumulation_dtype(embeddings.dtype), hidden.device)
    shares, rows = (values / kept).reshape(-1, k), rows.reshape(-1, k)  # (..., k) -> (N, k)
    tokens = sum_of_rows(shares, rows, embeddings, kernels=kernels)
    return tokens.reshape(*hidden.shape[:-1], embeddings.shape[1]), (1 - kept[..., 0]).clamp_(min=0)


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `values.topk(k)` of (n, T), faster if T is much larger than k. Ties are broken arbitrarily."""
    groups = values.shape[1] // _GROUP
    if groups <= 2 * k:
        found, columns = values.topk(k, dim=1)
        return found, columns
    whole = groups * _GROUP
    maxima = values[:, :whole].unflatten(1, (groups, _GROUP)).amax(dim=2)  # (n, T) -> (n, T / g)
    best = maxima.topk(k, dim=1, sorted=False).indices  # the k largest are in these groups, or in none
    inside = (best[:, :, None] * _GROUP + torch.arange(_GROUP, device=values.device)).flatten(1)  # (n, k g)
    tail = torch.arange(whole, values.shape[1], device=values.device).expand(len(values), -1)
    columns = torch.cat([inside, tail], dim=1)
    found, among = values.gather(1, columns).topk(k, dim=1)
    return found, columns.gather(1, among)


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


def log_normalisers(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, *, kernels: bool
) -> Tensor:
    """Return (N,) logsumexp of (hidden @ weight.T + bias) / temperature over T, in the accumulation dtype.

    Args:
        kernels: whether Triton computes it, if hidden and weight are of one dtype.
    """
    if kernels and hidden.dtype == weight.dtype and len(hidden):
        from vocabkit.adapter.mixing import kernels as in_triton

        return in_triton.top_candidates(hidden, weight, bias, temperature)
    parts = blocks(len(hidden), _patches(len(weight), 1, hidden.device))
    found = [_in_blocks(hidden[part], weight, bias, temperature, 1)[2] for part in parts]
    return torch.cat(found) if found else hidden.new_empty(0)


def _block(t: int, k: int, device: torch.device) -> int:
    return min(max(_ROWS.get(device.type, _ROWS["cpu"]), 4 * k), t)


def _patches(t: int, k: int, device: torch.device) -> int:
    """How many patches to take at a time."""
    return max(SCORES.get(device.type, SCORES["cpu"]) // _block(t, k, device), 1)


def _in_blocks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest of (hidden @ weight.T + bias) / temperature, their rows, and logsumexp over T."""
    n, t, sums = len(hidden), len(weight), accumulation_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    block = _block(t, k, hidden.device)
    w, h = Rows(weight, block, sums), hidden.to(sums) / temperature
    # columns beyond the last row stay -inf, so that all groups are full
    buffer = h.new_full((n, -(-block // _GROUP) * _GROUP), -torch.inf)
    reference = h.new_full((n,), torch.finfo(sums).min)  # finite, so that a block of -inf leaves no NaN
    total = torch.zeros_like(reference)
    best = _Best(n, k, hidden.device, sums)
    for rows in blocks(t, block):
        scores = buffer[:, : rows.stop - rows.start]
        if bias is not None:
            scores.copy_((bias[rows].to(sums) / temperature).expand_as(scores))
        multiply(h, w[rows].T, scores, accumulate=bias is not None)  # (n, H) @ (H, B) -> (n, B)
        buffer[:, rows.stop - rows.start :] = -torch.inf
        groups = buffer.unflatten(1, (-1, _GROUP))  # (n, B / g, g)
        maxima = groups.amax(dim=2)
        best.add(groups, maxima, rows)
        highest = maxima.amax(dim=1)
        raised = torch.where(highest > reference + GROWTH, highest, reference)
        total.mul_((reference - raised).exp_())
        reference = raised
        total.add_(buffer.sub_(reference[:, None]).exp_().sum(dim=1))
    values, rows_found = best.merged()
    return values, rows_found, total.log_().add_(reference)


class _Best:
    """The k largest scores so far of each patch, and candidates that exceeded the k-th when they were seen."""

    def __init__(self, n: int, k: int, device: torch.device, dtype: torch.dtype) -> None:
        self._values = torch.empty((n, 0), dtype=dtype, device=device)
        self._rows = torch.empty((n, 0), dtype=torch.int64, device=device)
        self._k = k
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._merged_at = 0

    def add(self, groups: Tensor, maxima: Tensor, rows: slice) -> None:
        """Add scores (n, B / g, g) of a block of rows, whose groups have the given maxima (n, B / g)."""
        if not rows.start:  # at least k of them, or all that there are
            self._values, self._rows = groups.flatten(1)[:, : rows.stop].topk(self._k, dim=1)
            self._merged_at = rows.stop
            return
        bound = self._values[:, -1:]  # (n, 1)
        patch, group = (maxima > bound).nonzero(as_tuple=True)
        scores = groups[patch, group]  # (P, g)
        which, column = (scores > bound[patch]).nonzero(as_tuple=True)
        self._found.append((patch[which], rows.start + group[which] * groups.shape[2] + column, scores[which, column]))
        if rows.stop >= _MERGE * self._merged_at:
            self._merge()
            self._merged_at = rows.stop

    def merged(self) -> tuple[Tensor, Tensor]:
        """The k largest (n, k), largest first, and their rows."""
        if self._found:
            self._merge()
        return self._values, self._rows

    def _merge(self) -> None:
        patch, row, score = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found = []
        patch, order = patch.sort()
        counts = patch.bincount(minlength=len(self._values))
        place = torch.arange(len(patch), device=patch.device) - (counts.cumsum(0) - counts)[patch]
        width = (len(counts), int(counts.max()) if len(counts) else 0)
        values = score.new_full(width, -torch.inf)
        rows = row.new_zeros(width)
        values[patch, place], rows[patch, place] = score[order], row[order]
        self._values, among = torch.cat([self._values, values], dim=1).topk(self._k, dim=1)
        self._rows = torch.cat([self._rows, rows], dim=1).gather(1, among)


def _by_kernel(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_in_blocks`, by one kernel that gives a few candidates of each tile of rows.

    Where the last candidate of a tile is among the k largest, the tile may hold more: such patches are computed again
    in blocks. With 64 of 109,566 rows in any order, it is one patch in a thousand.
    """
    from vocabkit.adapter.mixing import kernels as in_triton

    n, tiles = len(hidden), -(-len(weight) // in_triton.TILE_ROWS)
    if n == 0 or tiles * in_triton.CANDIDATES < 2 * k:
        return _in_blocks(hidden, weight, bias, temperature, k)
    values = torch.empty((n, tiles, in_triton.CANDIDATES), dtype=torch.float32, device=hidden.device)
    rows = torch.empty(values.shape, dtype=torch.int32, device=hidden.device)
    log_total = in_triton.top_candidates(hidden, weight, bias, temperature, values, rows)
    found, among = values.flatten(1).topk(k, dim=1)
    found_rows = rows.flatten(1).gather(1, among).long()
    least = found[:, -1]
    certain = (values[:, :, -1].amax(dim=1) < least) & least.isfinite()
    if not certain.all():
        again = (~certain).nonzero()[:, 0]
        found[again], found_rows[again], log_total[again] = _in_blocks(hidden[again], weight, bias, temperature, k)
    return found, found_rows, log_total
