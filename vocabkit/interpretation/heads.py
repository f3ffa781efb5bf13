"""What the head of an adapter says of images: its largest coefficients, and where their mass is.

Sizes: N patches of an image, Dv width of features, V rows of the head; k and m kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.mixing import largest

_COEFFICIENTS = 2**23
"""In memory at a time: 32 MiB in float32."""


class HeadReading(NamedTuple):
    """Of one image."""

    coefficients: Tensor
    """(N, k) float32, largest first."""
    rows: Tensor
    """(N, k) int64."""
    entropy: Tensor
    """(N,) float32, nats."""
    mass: Tensor
    """(m,) float32: shares of the sum of the sizes of all coefficients of the image, largest first."""
    mass_rows: Tensor
    """(m,) int64."""


@torch.no_grad()
def read_head(adapter: LangBridgeAdapter, features: Tensor, k: int, m: int) -> HeadReading:
    """Read the (N, Dv) features of one image. The (N, V) coefficients are never in memory at once unless they are few.

    k and m are at most V.
    """
    patches = max(1, _COEFFICIENTS // adapter.config.rows)
    sums = torch.zeros(adapter.config.rows)
    parts = []
    for block in features.split(patches):
        p = adapter.coefficients(block).float()  # (P, V)
        values, rows = largest(p, k)
        sizes = p.abs_()
        sums += sizes.sum(dim=0)
        shares = sizes.div_(sizes.sum(dim=1, keepdim=True).clamp_(min=torch.finfo(p.dtype).tiny))
        parts.append((values, rows, torch.special.entr(shares).sum(dim=1)))
    values, rows, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
    mass, mass_rows = (sums / sums.sum().clamp(min=torch.finfo(sums.dtype).tiny)).topk(m)
    return HeadReading(values, rows, entropy, mass, mass_rows)
