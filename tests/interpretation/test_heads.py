"""What is read from a head agrees with all of its coefficients."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.adapter_config import AdapterConfig
from vocabkit.alignment import align
from vocabkit.catalog import resolve
from vocabkit.interpretation import heads
from vocabkit.interpretation.heads import read_head
from vocabkit.mixing import Head


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
def test_coefficients_mass_and_entropy_are_those_of_the_whole_matrix(head: Head, blocks: int) -> None:
    made = adapter(head)
    p = made.coefficients(FEATURES).double()  # (N, V)
    shares = p.abs() / p.abs().sum(1, keepdim=True)

    with mock.patch.object(heads, "_COEFFICIENTS", blocks):
        found = read_head(made, FEATURES, 5, 7)

    torch.testing.assert_close(found.coefficients, p.topk(5).values.float())
    assert torch.equal(found.rows, p.topk(5).indices)
    torch.testing.assert_close(found.entropy.double(), torch.special.entr(shares).sum(1), rtol=0, atol=1e-5)
    mass = (p.abs().sum(0) / p.abs().sum()).topk(7)
    torch.testing.assert_close(found.mass, mass.values.float())
    assert torch.equal(found.mass_rows, mass.indices)


def test_a_head_that_is_sure_has_no_entropy_and_all_mass_on_one_row() -> None:
    made = adapter("softmax")
    made.head.weight.zero_()
    made.head.bias.zero_()[42] = 1000
    found = read_head(made, FEATURES, 1, 1)
    assert found.rows.unique().tolist() == [42]
    assert found.mass.tolist() == [1.0]
    assert found.entropy.abs().max() == 0


def test_a_head_that_knows_nothing_has_the_entropy_of_all_rows() -> None:
    made = adapter("softmax")
    made.head.weight.zero_()
    made.head.bias.zero_()
    torch.testing.assert_close(read_head(made, FEATURES, 1, 1).entropy, torch.full((11,), float(np.log(500))))


def test_coefficients_that_are_all_zero_are_no_numbers_that_are_not() -> None:
    made = adapter("linear")
    made.head.weight.zero_()
    made.head.bias.zero_()
    found = read_head(made, FEATURES, 1, 1)
    assert found.entropy.abs().max() == 0
    assert found.mass.tolist() == [0.0]
