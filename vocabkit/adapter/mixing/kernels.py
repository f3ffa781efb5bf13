"""Triton kernels for the steps between and after the matrix products of mixing: each score is read and written once.

The functions of `elementwise`, and two for the top-k path, whose scores are never written. Scores, sums and statistics
are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vocabkit.adapter.mixing.elementwise import GROWTH

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"
# ruff: noqa: N803


_TILE = 2048
"""Scores of a row that a program handles at a time."""
_GATHER_TILE = 1024
"""Columns of embeddings that a program handles at a time."""
TILE_ROWS, CANDIDATES = 128, 4
"""Rows of the weight in a tile, and scores that each tile keeps for a patch. More in one tile are rare: `top` looks."""
_TILE_PATCHES, _TILE_WIDTH = 128, 64
_PROGRAMS = 1024
"""Programs to start at least, if there are as many tiles: some for each multiprocessor of a large GPU."""


def softmax_block(
    scores: Tensor,
    bias: Tensor | None,
    temperature: float,
    reference: Tensor,
    total: Tensor,
    stored: Tensor,
    rescale: Tensor,
    p: Tensor,
) -> None:
    """As `elementwise.softmax_block`, which describes the arguments; `scores` are left unchanged."""
    n, columns = scores.shape
    with _device(scores):
        _softmax_block[(n,)](
            scores, scores if bias is None else bias, reference, total, stored, rescale, p,
            scores.stride(0), p.stride(0), columns, temperature,
            GROWTH=GROWTH, HAS_BIAS=bias is not None, TILE=_tile(columns, _TILE), num_warps=8,
        )  # fmt: skip


def rescale_rows(mixed: Tensor, rescale: Tensor) -> None:
    """As `elementwise.rescale_rows`; rows whose factor is 1 are not touched."""
    n, width = mixed.shape
    tile = _tile(width, _GATHER_TILE)
    with _device(mixed):
        _rescale_rows[(n, triton.cdiv(width, tile))](mixed, rescale, mixed.stride(0), width, TILE=tile)


def gradient_block(
    scores: Tensor,
    bias: Tensor | None,
    temperature: float,
    log_total: Tensor,
    d_p: Tensor,
    expected: Tensor,
    p: Tensor | None,
    d_scores: Tensor,
) -> None:
    """As `elementwise.gradient_block`, which describes the arguments."""
    n, columns = scores.shape
    tile = _tile(columns, _TILE)
    with _device(scores):
        _gradient_block[(n, triton.cdiv(columns, tile))](
            scores, scores if bias is None else bias, log_total, d_p, expected, scores if p is None else p, d_scores,
            scores.stride(0), d_p.stride(0), scores.stride(0) if p is None else p.stride(0), d_scores.stride(0),
            columns, temperature, HAS_BIAS=bias is not None, HAS_P=p is not None, TILE=tile, num_warps=8,
        )  # fmt: skip


def top_candidates(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    values: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Compute the largest scores of each tile of rows, and the log of the normaliser, without writing scores.

    Args:
        hidden: (n, H), contiguous.
        weight: (T, H), contiguous, of the same dtype.
        bias: (T,) or None.
        values: (n, tiles, CANDIDATES) float32, becomes the largest of (hidden @ weight.T + bias) / temperature in each
            tile of TILE_ROWS rows, largest first. None if only the normaliser is wanted.
        rows: the same, int32, becomes their rows.

    Returns:
        (n,) logsumexp of (hidden @ weight.T + bias) / temperature over T.
    """
    n, width = hidden.shape
    hidden, weight = hidden.contiguous(), weight.contiguous()
    tiles, patches = triton.cdiv(len(weight), TILE_ROWS), triton.cdiv(n, _TILE_PATCHES)
    per_part = triton.cdiv(tiles, min(triton.cdiv(_PROGRAMS, patches), tiles))
    parts = triton.cdiv(tiles, per_part)
    log_totals = torch.empty((n, parts), dtype=torch.float32, device=hidden.device)
    with _device(hidden):
        _top_candidates[(patches, parts)](
            hidden, weight, weight if bias is None else bias,
            log_totals if values is None else values, log_totals if rows is None else rows, log_totals,
            n, len(weight), width, tiles, per_part, parts, temperature,
            HAS_BIAS=bias is not None, CANDIDATES=0 if values is None else CANDIDATES, TILE_ROWS=TILE_ROWS,
            TILE_PATCHES=_TILE_PATCHES, TILE_WIDTH=_TILE_WIDTH, WIDEN=not hidden.is_cuda, num_warps=8, num_stages=3,
        )  # fmt: skip
    return log_totals.logsumexp(dim=1)


def sum_of_rows(values: Tensor, rows: Tensor, embeddings: Tensor, out: Tensor) -> None:
    """Compute `out[n] = sum_k values[n, k] embeddings[rows[n, k]]`, with sums in float32.

    Args:
        values: (N, k) float32, contiguous.
        rows: (N, k) int64, contiguous.
        embeddings: (T, D).
        out: (N, D).
    """
    n, width = out.shape
    tile = _tile(width, _GATHER_TILE)
    with _device(out):
        _sum_of_rows[(n, triton.cdiv(width, tile))](
            values, rows, embeddings, out, values.shape[1], embeddings.stride(0), out.stride(0), width, TILE=tile
        )


@triton.jit
def _softmax_block(
    scores, bias, reference, total, stored, rescale, p,
    scores_stride, p_stride, columns, temperature,
    GROWTH: tl.constexpr, HAS_BIAS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores += row * scores_stride
    p += row * p_stride
    highest = tl.full((TILE,), float("-inf"), tl.float32)
    for start in range(0, columns, TILE):
        column = start + tl.arange(0, TILE)
        inside = column < columns
        s = tl.load(scores + column, mask=inside, other=float("-inf"))
        if HAS_BIAS:
            s += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, s)
    before = tl.load(reference + row)
    best = tl.max(highest, axis=0) / temperature
    raised = tl.where(best > before + GROWTH, best, before)
    sums = tl.zeros((TILE,), tl.float32)
    stored_sums = tl.zeros((TILE,), tl.float32)
    for start in range(0, columns, TILE):  # reads the same scores again, from the L2 cache
        column = start + tl.arange(0, TILE)
        inside = column < columns
        s = tl.load(scores + column, mask=inside, other=float("-inf"))
        if HAS_BIAS:
            s += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        powers = tl.exp(s / temperature - raised)
        rounded = powers.to(p.dtype.element_ty)
        sums += powers
        stored_sums += rounded.to(tl.float32)
        tl.store(p + column, rounded, mask=inside)
    factor = tl.exp(before - raised)
    tl.store(rescale + row, factor)
    tl.store(total + row, tl.load(total + row) * factor + tl.sum(sums, axis=0))
    tl.store(stored + row, tl.load(stored + row) * factor + tl.sum(stored_sums, axis=0))
    tl.store(reference + row, raised)


@triton.jit
def _rescale_rows(mixed, rescale, stride, width, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(rescale + row)
    if factor != 1.0:
        column = tl.program_id(1) * TILE + tl.arange(0, TILE)
        at = mixed + row * stride + column
        tl.store(at, tl.load(at, mask=column < width, other=0.0) * factor, mask=column < width)


@triton.jit
def _gradient_block(
    scores, bias, log_total, d_p, expected, p, d_scores,
    scores_stride, d_p_stride, p_stride, d_scores_stride, columns, temperature,
    HAS_BIAS: tl.constexpr, HAS_P: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < columns
    s = tl.load(scores + row * scores_stride + column, mask=inside, other=0.0)
    if HAS_BIAS:
        s += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    share = tl.exp(s / temperature - tl.load(log_total + row))
    gradient = tl.load(d_p + row * d_p_stride + column, mask=inside, other=0.0) - tl.load(expected + row)
    gradient = gradient * share / temperature
    if HAS_P:
        tl.store(p + row * p_stride + column, share.to(p.dtype.element_ty), mask=inside)
    tl.store(d_scores + row * d_scores_stride + column, gradient.to(d_scores.dtype.element_ty), mask=inside)


@triton.jit
def _top_candidates(
    hidden, weight, bias, values, rows, log_totals,
    n, columns, width, tiles, per_part, parts, temperature,
    HAS_BIAS: tl.constexpr, CANDIDATES: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_PATCHES: tl.constexpr,
    TILE_WIDTH: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    # programs that run together differ in patches first, so that they share the rows of the weight in the L2 cache
    patch = tl.program_id(0).to(tl.int64) * TILE_PATCHES + tl.arange(0, TILE_PATCHES)
    part = tl.program_id(1)
    in_patches = patch < n
    reference = tl.full((TILE_PATCHES,), -3.4028234663852886e38, tl.float32)  # finite: rows of -inf leave no NaN
    total = tl.zeros((TILE_PATCHES,), tl.float32)
    for tile in range(part * per_part, tl.minimum(part * per_part + per_part, tiles)):
        column = tile * TILE_ROWS + tl.arange(0, TILE_ROWS)
        inside = column < columns
        h_rows, w_rows = hidden + patch[:, None] * width, weight + column.to(tl.int64)[:, None] * width
        s = tl.zeros((TILE_PATCHES, TILE_ROWS), tl.float32)
        for start in range(0, width, TILE_WIDTH):  # (P, H) @ (H, R) -> (P, R)
            at = (start + tl.arange(0, TILE_WIDTH))[None, :]
            h = tl.load(h_rows + at, mask=in_patches[:, None] & (at < width), other=0.0)
            w = tl.load(w_rows + at, mask=inside[:, None] & (at < width), other=0.0)
            if WIDEN:  # Triton's interpreter multiplies the bits of bfloat16
                h, w = h.to(tl.float32), w.to(tl.float32)
            s = tl.dot(h, tl.trans(w), s, input_precision="ieee")
        if HAS_BIAS:
            s += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        s = tl.where(inside[None, :], s / temperature, float("-inf"))
        raised = tl.maximum(reference, tl.max(s, axis=1))
        total = total * tl.exp(reference - raised) + tl.sum(tl.exp(s - raised[:, None]), axis=1)
        reference = raised
        for i in tl.static_range(CANDIDATES):
            best, place = tl.max(s, axis=1, return_indices=True)
            to = (patch * tiles + tile) * CANDIDATES + i
            tl.store(values + to, best, mask=in_patches)
            tl.store(rows + to, tile * TILE_ROWS + place, mask=in_patches)
            s = tl.where(tl.arange(0, TILE_ROWS)[None, :] == place[:, None], float("-inf"), s)
    tl.store(log_totals + patch * parts + part, reference + tl.log(total), mask=in_patches)


@triton.jit
def _sum_of_rows(values, rows, embeddings, out, k, embeddings_stride, out_stride, width, TILE: tl.constexpr):
    patch = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < width
    total = tl.zeros((TILE,), tl.float32)
    for i in range(k):
        row = tl.load(rows + patch * k + i)
        value = tl.load(values + patch * k + i)
        total += value * tl.load(embeddings + row * embeddings_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + patch * out_stride + column, total.to(out.dtype.element_ty), mask=inside)


def _tile(width: int, most: int) -> int:
    return min(int(triton.next_power_of_2(width)), most)


def _device(tensor: Tensor) -> torch.cuda.device:
    """Make the device of `tensor` current, on which Triton launches; a no-op without a GPU."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
