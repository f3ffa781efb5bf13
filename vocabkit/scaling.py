"""The factor on transferred visual tokens. `none` is Eq. 6 as it stands.

A linear head is free to make visual tokens far longer than any embedding: the LLM of the training reads them all the
same, another LLM does not. `rms` brings them to the length of the target's embeddings, by one factor for all.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from vocabkit.errors import VocabkitError, quote
from vocabkit.transfer import Preflight
from vocabkit.transferred import TransferredAdapter


@torch.no_grad()
def rms_scale(transferred: TransferredAdapter, features: Tensor) -> float:
    """The factor by which the visual tokens of `features` get the root mean square of the target's embedding rows.

    Args:
        features: (N, Dv) real patch features.
    """
    tokens = transferred.adapter(features.to(transferred.adapter.linear_1.weight.dtype), transferred.embeddings)
    found = tokens.float().square().mean().sqrt()
    wanted = torch.stack([part.float().square().mean() for part in transferred.embeddings.split(8192)])
    sizes = torch.tensor([len(part) for part in transferred.embeddings.split(8192)], dtype=torch.float32)
    factor = float((wanted * sizes).sum().div(sizes.sum()).sqrt() / found)
    if not (0 < factor < math.inf):
        raise VocabkitError("the visual tokens of these features are all zero or not finite; give other --features")
    return factor


def match_rms(transferred: TransferredAdapter, report: Preflight, features: Tensor) -> Preflight:
    """Set the scale of `transferred` to `rms_scale` of these features, in place. Returns the report with that scale."""
    factor = rms_scale(transferred, features)
    with_scale(transferred, factor)
    return dataclasses.replace(report, scale=factor)


def with_scale(transferred: TransferredAdapter, scale: float) -> TransferredAdapter:
    """The same adapter with this factor on its visual tokens, in place."""
    transferred.config = dataclasses.replace(transferred.config, scale=scale)
    return transferred


def parse_scale(argument: str) -> float | None:
    """`none` -> 1.0, `rms` -> None (to be measured), a positive number -> itself. Raises VocabkitError otherwise."""
    if argument == "rms":
        return None
    try:
        factor = 1.0 if argument == "none" else float(argument)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise VocabkitError(f"--scale {quote(argument)}: choose none, rms, or a positive number")
    return factor
