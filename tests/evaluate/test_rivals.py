"""Maps between embedding spaces find the map that there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from vocabkit.adapter.space_maps import SpaceMap, procrustes, ridge


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(wide: int, narrow: int) -> Tensor:
    """(wide, narrow) with orthonormal columns."""
    return torch.linalg.qr(normal(wide, narrow, seed=9))[0]


def error(fitted: SpaceMap, source: Tensor, target: Tensor) -> float:
    return float((fitted(source) - target).square().mean() / target.var())


@pytest.mark.parametrize(("from_width", "to_width"), [(6, 6), (5, 8), (8, 5)])
def test_ridge_recovers_a_linear_map_with_bias(from_width: int, to_width: int) -> None:
    weight, bias = normal(from_width, to_width, seed=1), normal(to_width, seed=2)
    source = normal(400, from_width) + 3
    fitted = ridge(source, source @ weight + bias)
    new = normal(50, from_width, seed=3)
    assert_close(fitted(new), new @ weight + bias, rtol=1e-4, atol=1e-4)


def test_ridge_shrinks_on_noise() -> None:
    source, target = normal(60, 40), normal(60, 3, seed=1)
    new, truth = normal(500, 40, seed=2), normal(500, 3, seed=3)
    centred = torch.cat([source, torch.ones(60, 1)], dim=1)
    plain = torch.linalg.lstsq(centred, target).solution
    least_squares = torch.cat([new, torch.ones(500, 1)], dim=1) @ plain
    assert error(ridge(source, target), new, truth) < float((least_squares - truth).square().mean() / truth.var())


@pytest.mark.parametrize(("from_width", "to_width"), [(6, 6), (5, 8)])
def test_procrustes_finds_a_rotation_with_a_scale_and_a_shift(from_width: int, to_width: int) -> None:
    turn = rotation(to_width, from_width).T  # (from, to), rows orthonormal
    source = normal(300, from_width) + 2
    fitted = procrustes(source, 0.3 * source @ turn + 7)
    assert_close(fitted.weight, 0.3 * turn)
    new = normal(50, from_width, seed=3)
    assert_close(fitted(new), 0.3 * new @ turn + 7)


def test_procrustes_onto_fewer_dimensions_keeps_the_largest() -> None:
    turn = rotation(8, 5)  # (from, to), columns orthonormal
    source = normal(300, 5) @ turn.T  # in the space that they span
    target = 4 * source @ turn - 1
    assert error(procrustes(source, target), source, target) < 1e-12


def test_ridge_beats_procrustes_on_maps_that_are_not_rotations() -> None:
    source = normal(400, 6)
    target = source @ normal(6, 6, seed=1)
    turned = procrustes(source, target)
    gram = turned.weight @ turned.weight.T
    assert_close(gram, gram[0, 0] * torch.eye(6, dtype=torch.float64))
    assert error(ridge(source, target), source, target) < 1e-6 < error(turned, source, target)


def test_procrustes_is_optimal_among_rotations_and_scales() -> None:
    source, target = normal(200, 4), normal(200, 4, seed=1)
    best = procrustes(source, target)
    for number in range(20):
        nudge = torch.linalg.matrix_exp(0.05 * (skew := normal(4, 4, seed=number)) - 0.05 * skew.T)
        other = SpaceMap(best.source_mean, best.weight @ nudge * (1 + 0.02 * (number - 10)), best.target_mean)
        assert error(best, source, target) <= error(other, source, target)


@pytest.mark.parametrize("fit", [ridge, procrustes])
def test_tokens_keep_their_shape_and_dtype(fit: object) -> None:
    fitted = fit(normal(50, 4).float(), normal(50, 6).float())  # type: ignore[operator]
    assert fitted.weight.dtype == torch.float64
    assert fitted(torch.zeros(2, 3, 4, dtype=torch.bfloat16)).shape == (2, 3, 6)
    assert fitted(torch.zeros(2, 3, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
