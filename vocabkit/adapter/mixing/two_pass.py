"""Exact softmax mixing in two passes, for GPUs: normalisers first, then coefficients times embeddings.

The first pass is one kernel that writes no scores. In the second, a block's coefficients are final, so that they go
into a plain product in bfloat16, in buffers of few patches and rows that stay in the L2 cache; the scores are computed
twice, which is H / (H + D) more work. `benchmarks/mixing.py` measures it beside the one-pass form of `softmax`. No call
of `mix` takes it: it has not been measured on a GPU yet.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from vocabkit.adapter.mixing import elementwise
from vocabkit.adapter.mixing.products import Rows, accumulation_dtype, blocks, explain_oom, multiply, operand_dtype
from vocabkit.adapter.mixing.top import log_normalisers

_PATCHES, _ROWS = 2048, 4096
"""Of a block: scores in float32 and coefficients in bfloat16 are 50 MB, as the L2 cache of an H100 or H200."""


@torch.no_grad()
@explain_oom
def two_pass_softmax_mix(
    hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor | None, temperature: float, *, kernels: bool
) -> Tensor:
    """Return what `softmax.streamed_softmax_mix` does, without gradients. Arguments as there."""
    n, t, d = len(hidden), len(weight), embeddings.shape[1]
    sums = accumulation_dtype(torch.promote_types(hidden.dtype, embeddings.dtype))
    steps: ModuleType = elementwise
    if kernels:
        from vocabkit.adapter.mixing import kernels as in_triton

        steps = in_triton
    block = min(_ROWS, t)
    w = Rows(weight, block, operand_dtype(torch.promote_types(weight.dtype, hidden.dtype), sums, hidden.device))
    e = Rows(embeddings, block, operand_dtype(embeddings.dtype, sums, hidden.device))
    h = hidden.to(w.dtype)
    scores = h.new_empty((min(_PATCHES, n), block), dtype=sums)
    p = scores if e.dtype == sums else h.new_empty(scores.shape, dtype=e.dtype)
    # with the normaliser as reference, exponentials are coefficients, of at most 1: no reference is ever raised
    log_total = log_normalisers(hidden, weight, bias, temperature, kernels=kernels).to(sums)
    total, stored, unused = torch.zeros((3, n), dtype=sums, device=h.device)
    mixed = h.new_empty((n, d), dtype=sums)
    for part in blocks(n, _PATCHES):
        for rows in blocks(t, block):
            at = slice(0, part.stop - part.start), slice(0, rows.stop - rows.start)
            s = scores[at]
            q = s if p is scores else p[at]
            multiply(h[part], w[rows].T, s)  # (P, H) @ (H, B) -> (P, B)
            steps.softmax_block(
                s, None if bias is None else bias[rows], temperature, log_total[part], total[part], stored[part],
                unused[part], q,
            )  # fmt: skip
            multiply(q, e[rows], mixed[part], accumulate=rows.start > 0)  # (P, B) @ (B, D) -> (P, D)
    return mixed.div_(stored[:, None]).to(embeddings.dtype)
