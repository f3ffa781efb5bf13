"""How a call of `mix` is computed, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vocabkit.mixing.operands import Head

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
