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

_LARGEST = 1e6
"""A factor that a visual token of any dtype but float16 survives."""


@torch.no_grad()
def visual_rms(transferred: TransferredAdapter, features: Tensor) -> float:
    """Root mean square of the elements of the visual tokens of `features` (N, Dv), without the scale."""
    tokens = transferred.adapter(features.to(transferred.adapter.linear_1.weight.dtype), transferred.embeddings)
    return float(tokens.float().square().mean().sqrt())


def with_visual_rms(transferred: TransferredAdapter, report: Preflight, features: Tensor) -> Preflight:
    """The report with the length of the visual tokens of real patch features (N, Dv)."""
    rms = visual_rms(transferred, features) * transferred.config.scale
    return dataclasses.replace(report, visual_rms=rms)


def match_rms(transferred: TransferredAdapter, report: Preflight, features: Tensor) -> Preflight:
    """Scale the visual tokens of `transferred`, in place, so that those of `features` get the root mean square of the
    target's embedding rows.

    Args:
        features: (N, Dv) real patch features.

    Returns the report with that scale. Raises VocabkitError: visual tokens that are all zero or not finite.
    """
    found = visual_rms(transferred, features)
    factor = report.norms.rms / found if found else math.inf
    if not (0 < factor < math.inf):
        raise VocabkitError("the visual tokens of these features are all zero or not finite; give other --features")
    with_scale(transferred, factor)
    return dataclasses.replace(report, scale=factor, visual_rms=found * factor)


def with_scale(transferred: TransferredAdapter, scale: float) -> TransferredAdapter:
    """The same adapter with this factor on its visual tokens, in place."""
    transferred.config = dataclasses.replace(transferred.config, scale=scale)
    return transferred


def parse_scale(argument: str) -> float | None:
    """`none` -> 1.0, `rms` -> None (to be measured), 1e-6 to 1e6 -> itself. Raises VocabkitError: anything else."""
    if argument == "rms":
        return None
    try:
        factor = 1.0 if argument == "none" else float(argument)
    except ValueError:
        factor = math.nan
    if not 1 / _LARGEST <= factor <= _LARGEST:
        raise VocabkitError(f"--scale {quote(argument)}: choose none, rms, or a number from 1e-6 to 1e6")
    return factor
