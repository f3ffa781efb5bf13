"""Linear maps between two spaces that are fitted on pairs of vectors: ridge regression and orthogonal Procrustes.

`ridge` is the best linear map with a bias, `procrustes` the best rotation with a scale (Schönemann, 1966; if widths
differ, onto the common dimensions).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PENALTIES = torch.logspace(-6, 1, 8, dtype=torch.float64)
"""Penalties of ridge, in units of the mean variance."""
_HELD_OUT = 10
"""One row in this many is held out to choose the penalty."""


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """x -> (x - source_mean) weight + target_mean."""

    source_mean: Tensor
    """(D1,)."""
    weight: Tensor
    """(D1, D2)."""
    target_mean: Tensor
    """(D2,)."""

    @property
    def bias(self) -> Tensor:
        """(D2,): x -> x weight + bias is the same map."""
        return self.target_mean - self.source_mean @ self.weight

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., D1) -> (..., D2), in the dtype of `tokens`."""
        moved = (tokens.double() - self.source_mean) @ self.weight + self.target_mean
        return moved.to(tokens.dtype)


def ridge(source: Tensor, target: Tensor) -> SpaceMap:
    """Fit the linear map of least squared error plus a penalty, which is chosen on held-out rows.

    Args:
        source: (V, D1) embeddings of the shared tokens.
        target: (V, D2) of the same tokens.
    """
    source, target = source.double(), target.double()
    held = torch.arange(len(source)) % _HELD_OUT == 0
    trials = [penalised(source[~held], target[~held], float(penalty)) for penalty in _PENALTIES]
    errors = [float((trial(source[held]) - target[held]).square().sum()) for trial in trials]
    return penalised(source, target, float(_PENALTIES[errors.index(min(errors))]))


def procrustes(source: Tensor, target: Tensor) -> SpaceMap:
    """Fit the rotation and scale of least squared error. Arguments as for `ridge`."""
    x, y, source_mean, target_mean = _centred(source.double(), target.double())
    u, singular, v = torch.linalg.svd(x.T @ y, full_matrices=False)
    rotation = u @ v  # (D1, D2)
    scale = singular.sum() / (x @ rotation).square().sum()
    return SpaceMap(source_mean, rotation * scale, target_mean)


def penalised(source: Tensor, target: Tensor, penalty: float) -> SpaceMap:
    """Fit the map of `ridge` for one penalty, in units of the mean variance; in the dtype of the arguments."""
    x, y, source_mean, target_mean = _centred(source, target)
    gram = x.T @ x
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    return SpaceMap(source_mean, torch.linalg.solve(gram, x.T @ y), target_mean)


def _centred(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source_mean, target_mean = source.mean(dim=0), target.mean(dim=0)
    return source - source_mean, target - target_mean, source_mean, target_mean
