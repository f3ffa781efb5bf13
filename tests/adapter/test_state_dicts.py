"""Tensors that are not plain weights are told from those that are."""

from __future__ import annotations

import pytest

from vocabkit.adapter.state_dicts import why_unusable


@pytest.mark.parametrize("uint8", ["torch.uint8", "U8"])
@pytest.mark.parametrize(("shape", "further"), [((18, 1), ()), ((3, 6), ("x.weight.quant_map",))])
def test_weight_of_4_bits_is_told_by_its_shape_or_its_scales(
    uint8: str, shape: tuple[int, ...], further: tuple[str, ...]
) -> None:
    names = {"x.weight", *further}
    assert "4 bits" in (why_unusable("x.weight", shape, uint8, names) or "")
    assert why_unusable("x.weight", shape, "torch.float16", names) is None
    assert why_unusable("x.weight", (3, 6), uint8, {"x.weight"}) is None


@pytest.mark.parametrize("int8", ["torch.int8", "I8"])
def test_weight_of_8_bits_is_told_by_its_scales(int8: str) -> None:
    assert "8 bits" in (why_unusable("x.weight", (3, 6), int8, {"x.weight", "x.SCB"}) or "")
    assert why_unusable("x.weight", (3, 6), int8, {"x.weight", "y.SCB"}) is None


def test_empty_weight_is_one_of_zero_3() -> None:
    assert "ZeRO-3" in (why_unusable("x.weight", (0,), "torch.float32", {"x.weight"}) or "")
