"""Readings of a head agree with its full matrix of coefficients."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from vocabkit.adapter.config import AdapterConfig, Head
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.interpret import nearest as heads
from vocabkit.interpret.nearest import read_head
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve


def adapter(head: Head) -> LangBridgeAdapter:
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(500))
    config = AdapterConfig.of(shared, llm="qwen2", vision_width=4, hidden_width=6, head=head)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = LangBridgeAdapter(config, shared)
        torch.nn.init.normal_(made.head.weight, std=5.0)
    return made.requires_grad_(False)


FEATURES = torch.randn(11, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["softmax", "linear"])
@pytest.mark.parametrize("blocks", [500 * 3, 1 << 20])
def test_blocks_give_the_largest_coefficients_of_the_whole_matrix(head: Head, blocks: int) -> None:
    made = adapter(head)
    p = made.coefficients(FEATURES)  # (N, V)
    with mock.patch.object(heads, "_COEFFICIENTS", blocks):
        found = read_head(made, FEATURES, 5, 7)
    np.testing.assert_allclose(found.coefficients, p.topk(5).values, rtol=1e-5)
    assert found.rows.tolist() == p.topk(5).indices.tolist()


@pytest.mark.parametrize("blocks", [500 * 3, 1 << 20])
def test_blocks_give_mass_and_entropy_of_the_whole_matrix(blocks: int) -> None:
    made = adapter("softmax")
    p = made.coefficients(FEATURES).double()
    with mock.patch.object(heads, "_COEFFICIENTS", blocks):
        found = read_head(made, FEATURES, 5, 7)
    assert found.entropy is not None
    assert found.image_rows is not None
    assert found.image_mass is not None
    np.testing.assert_allclose(found.entropy, torch.special.entr(p).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.image_mass, p.mean(0).topk(7).values, rtol=1e-5)
    assert found.image_rows.tolist() == p.mean(0).topk(7).indices.tolist()


def test_linear_head_has_no_mass_or_entropy() -> None:
    found = read_head(adapter("linear"), FEATURES, 5, 7)
    assert found.entropy is found.image_rows is found.image_mass is None


def test_certain_head_has_zero_entropy_and_all_mass_on_one_row() -> None:
    made = adapter("softmax")
    made.head.weight.zero_()
    made.head.bias.zero_()[42] = 1000
    found = read_head(made, FEATURES, 1, 1)
    assert set(found.rows.flatten().tolist()) == {42}
    assert found.image_mass == 1
    assert found.entropy is not None
    assert not found.entropy.any()


def test_uniform_head_has_the_entropy_of_all_rows() -> None:
    made = adapter("softmax")
    made.head.weight.zero_()
    made.head.bias.zero_()
    np.testing.assert_allclose(read_head(made, FEATURES, 1, 1).entropy, np.log(500), rtol=1e-6)
