"""What the head of an adapter says of images: its largest coefficients, and where their mass is.

Sizes: N patches of an image, Dv width of features, V rows of the head; k and m kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.mixing import largest

_COEFFICIENTS = 2**23
"""In memory at a time: 32 MiB in float32."""


class HeadReading(NamedTuple):
    """The fields of a `Reading` that are about the head."""

    rows: np.ndarray
    coefficients: np.ndarray
    entropy: np.ndarray | None
    image_rows: np.ndarray | None
    image_mass: np.ndarray | None


@torch.no_grad()
def read_head(adapter: LangBridgeAdapter, features: Tensor, k: int, m: int) -> HeadReading:
    """Read the (N, Dv) features of one image. The (N, V) coefficients are never in memory at once unless they are few.

    k and m are at most V.
    """
    softmax = adapter.config.head == "softmax"
    sums = torch.zeros(adapter.config.rows)
    parts: list[tuple[Tensor, Tensor]] = []
    entropy: list[Tensor] = []
    for block in features.split(max(1, _COEFFICIENTS // adapter.config.rows)):
        p = adapter.coefficients(block).float()  # (P, V)
        parts.append(largest(p, k))
        if softmax:
            sums += p.sum(dim=0)
            entropy.append(torch.special.entr(p).sum(dim=1))
    coefficients, rows = (torch.cat(part) for part in zip(*parts, strict=True))
    found = rows.int().numpy(), coefficients.numpy()
    if not softmax:
        return HeadReading(*found, None, None, None)
    mass, mass_rows = (sums / len(features)).topk(m)
    return HeadReading(*found, torch.cat(entropy).numpy(), mass_rows.int().numpy(), mass.numpy())
