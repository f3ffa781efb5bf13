"""Two processes learn what one learns: the same losses and weights, up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_world import World
from torch.testing import assert_close
from two_processes import ACCELERATE, TORCHRUN, assert_same_training, run

from vocabkit.llm.load import load_llm
from vocabkit.train.train import train


def test_two_processes_have_the_loss_curve_of_one(world: World, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"connector": "softmax", "micro_batch": 1, "word_steps": 3, "word_batch": 4}
    changes |= {"word_weight": 0.5}
    recipe = world.write_recipe(tmp_path / "recipe.toml", **changes)
    run(TORCHRUN, "MULTI_CPU", "train", recipe, "--out", tmp_path / "two")
    train(world.recipe(**changes), tmp_path / "one")
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.robust
def test_sharded_training_gives_the_same_result(world: World, tmp_path: Path) -> None:
    start = train(world.recipe(steps=1), tmp_path / "start")
    changes = {"train_llm": "full", "adapter": str(start.adapter), "micro_batch": 1, "checkpoint_every": 3}
    recipe = world.write_recipe(tmp_path / "recipe.toml", **changes)
    run(ACCELERATE, "FSDP", "train", recipe, "--out", tmp_path / "two")
    one = train(world.recipe(**changes), tmp_path / "one")
    assert_same_training(tmp_path / "one", tmp_path / "two")
    found, expected = (load_llm(f"one={folder / 'llm'}").model for folder in (tmp_path / "two", one.folder))
    for name, tensor in expected.state_dict().items():
        assert_close(found.state_dict()[name], tensor, rtol=1e-2, atol=1e-3)
