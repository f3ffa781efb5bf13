"""Two processes learn what one learns: the same losses and weights, up to rounding."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from results import curve, metrics, weights
from small_world import World
from torch.testing import assert_close

from vocabkit.llm.load import load_llm
from vocabkit.train.train import train

HERE = Path(__file__).parent
FSDP2 = HERE.parents[1] / "docs" / "examples" / "fsdp2.yaml"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--config_file", FSDP2, "--num_processes", "2", "--main_process_port", "0",
)  # fmt: skip


def run(launcher: tuple[str | Path, ...], kind: str, *words: str | Path) -> None:
    """Run `vocabkit WORDS` in two CPU processes over gloo."""
    done = subprocess.run(
        [sys.executable, *launcher, HERE.parent / "support" / "launched.py", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    processes = sorted(re.findall(rf"process \d of \d: {kind}", done.stdout))  # lines of two may run together
    assert processes == [f"process 0 of 2: {kind}", f"process 1 of 2: {kind}"]


def assert_same_training(one: Path, two: Path) -> None:
    """Both runs have equal metrics and weights, up to rounding."""
    assert len(metrics(one)) == len(metrics(two))
    for name in ("caption_loss", "word_loss", "gradient_norm", "learning_rate"):
        assert_close(curve(two, name), curve(one, name), rtol=2e-4, atol=1e-6)
    expected = weights(one)
    assert weights(two).keys() == expected.keys()
    for name, tensor in weights(two).items():
        assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3)


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
