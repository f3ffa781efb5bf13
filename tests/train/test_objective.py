"""Both losses of a step, taken at once, are what each of them is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_world import World
from torch.testing import assert_close

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import Adapter, LangBridgeAdapter
from vocabkit.data.samples import Turn
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM, collate
from vocabkit.llm.prompts import encode_sample
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.train.dataset import Item
from vocabkit.train.objective import Objective
from vocabkit.transfer.transfer import open_target, transfer, with_scale
from vocabkit.vision.features import open_features


def connector(world: World, moved: bool, **options: Any) -> Adapter:
    """An adapter with a softmax head of LLM one, or the same moved to LLM two with a scale."""
    shared = open_shared(world.shared)
    config = AdapterConfig.of(shared, llm="one", vision_width=32, hidden_width=16, head="softmax", **options)
    torch.manual_seed(0)
    adapter = LangBridgeAdapter(config, shared)
    return with_scale(transfer(adapter, open_target(world.two))[0], 0.5) if moved else adapter


@pytest.mark.parametrize("moved", [False, True], ids=["adapter", "transferred"])
def test_batched_losses_and_gradients_equal_those_of_single_images(world: World, moved: bool) -> None:
    llm, features = load_llm(world.two if moved else world.one), open_features(world.features)
    turns = [Turn("Look: <image>\nThis is", "a dog.")]
    prompt = encode_sample(llm.tokenizer, turns, "completion", features.tokens, longest=1000)
    batch = collate([prompt] * 2, [features["0.png"].float(), features["1.png"].float()])
    item = Item(batch, [{3: 0.5, 4: 0.5}, {200: 1.0}], [])
    lvlm = LVLM(llm, connector(world, moved, temperature=0.7).requires_grad_(True))
    objective = Objective(lvlm, features, entropy=0.3)

    def gradients(**asked: bool) -> tuple[Any, list[torch.Tensor]]:
        objective.zero_grad()
        losses = objective(item, **asked)
        sum(losses).backward()
        return losses, [torch.clone(p.grad) for p in lvlm.connector.parameters() if p.grad is not None]

    both, at_once = gradients(caption=True, words=True)
    (caption, none), first = gradients(caption=True, words=False)
    (zero, words), second = gradients(caption=False, words=True)
    assert (none, zero) == (0, 0)
    assert_close(both, (caption, words))
    assert_close(at_once, [one + two for one, two in zip(first, second, strict=True)], rtol=1e-4, atol=1e-4)


def test_frozen_llm_has_no_dropout_while_the_adapter_trains(world: World) -> None:
    lvlm = LVLM(load_llm(world.one), connector(world, moved=False))
    objective = Objective(lvlm, open_features(world.features))
    lvlm.llm.requires_grad_(False)
    assert (objective.train().lvlm.connector.training, lvlm.llm.training) == (True, False)
    lvlm.llm.requires_grad_(True)
    assert objective.train().lvlm.llm.training
    assert not objective.eval().lvlm.llm.training
