"""A training that is killed goes on where its state was saved, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import error_of, vocabkit_here
from results import metrics, same_bits, weights
from small_world import World

from vocabkit.adapter.model import load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.train.recipe import Recipe
from vocabkit.train.train import train

WORDS = {"connector": "softmax", "word_steps": 6, "word_batch": 4, "word_weight": 0.5, "steps": 6}


class Stopped(Exception):  # noqa: N818 - not an error
    """Stop as a power failure would."""


def stopped_after(step: int, recipe: Recipe, out: Path) -> None:
    """Train, and stop right after this step is logged."""

    def stop(measured: Any) -> None:
        if measured.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        train(recipe, out, on_step=stop)


def assert_same_end(one: Path, two: Path) -> None:
    """Both runs have equal metrics and weights, bit for bit."""
    assert metrics(one) == metrics(two)
    assert same_bits(weights(one), weights(two))


@pytest.mark.robust
@pytest.mark.parametrize("kill_at", [4, 9], ids=["words", "captions"])
def test_killed_training_resumes_to_the_same_result(world: World, tmp_path: Path, kill_at: int) -> None:
    changes = {**WORDS, "steps": 40, "checkpoint_every": 3}
    changes |= {"word_steps": 40, "steps": 6} if kill_at == 4 else {}
    recipe, out = world.write_recipe(tmp_path / "recipe.toml", **changes), tmp_path / "killed"
    words = [sys.executable, "-m", "vocabkit_cli", "train", recipe, "--out", out]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (out / "metrics.jsonl").exists() or len(metrics_lines(out)) < kill_at:
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = len(metrics_lines(out))
    assert kill_at <= done < 46
    assert not (out / "adapter").exists()
    train(world.recipe(**changes), out)
    train(world.recipe(**changes), tmp_path / "whole")
    assert_same_end(out, tmp_path / "whole")


def metrics_lines(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("every", [2, 1000], ids=["state saved", "none saved"])
def test_ctrl_c_says_what_was_kept_and_how_to_resume(world: World, tmp_path: Path, every: int) -> None:
    recipe, out = world.write_recipe(tmp_path / "recipe.toml", steps=2000, checkpoint_every=every), tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-m", "vocabkit_cli", "train", recipe, "--out", out],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not (out / "metrics.jsonl").exists() or len(metrics_lines(out)) < 5:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    printed, said = child.communicate()
    assert (child.returncode, printed) == (130, "")
    kept = f"{out} has the last saved state; the same command resumes from it"
    none = "no state was saved yet (every 1,000 steps); the same command starts anew"
    assert said.splitlines()[-1] == f"interrupted; {kept if every == 2 else none}"


@pytest.mark.parametrize("changes", [{}, WORDS, {"connector": "mlp"}], ids=["linear", "words", "mlp"])
@pytest.mark.parametrize("step", [2, 3, 7])
def test_interrupted_training_ends_with_the_same_weights(
    world: World, tmp_path: Path, changes: dict[str, Any], step: int
) -> None:
    recipe = world.recipe(**changes, checkpoint_every=3)
    stopped_after(step, recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "whole")
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("train_llm", ["lora", "full"])
def test_trained_llm_is_resumed(world: World, tmp_path: Path, train_llm: str) -> None:
    adapter = train(world.recipe(steps=1), tmp_path / "adapter").adapter
    recipe = world.recipe(adapter=str(adapter), train_llm=train_llm, checkpoint_every=3)
    stopped_after(5, recipe, tmp_path / "stopped")
    stopped, whole = train(recipe, tmp_path / "stopped"), train(recipe, tmp_path / "whole")
    assert_same_end(stopped.folder, whole.folder)
    assert stopped.llm is not None
    assert whole.llm is not None
    files = sorted(whole.llm.glob("*.safetensors"))
    assert files
    for file in files:
        assert (stopped.llm / file.name).read_bytes() == file.read_bytes()


def test_skips_before_an_interruption_are_counted(world: World, tmp_path: Path) -> None:
    recipe = world.recipe(
        features=None, vision=str(world.vision), data=(str(tmp_path / "data.json"),), images=str(tmp_path),
        checkpoint_every=1,
    )  # fmt: skip
    (tmp_path / "data.json").write_text(world.data.read_text())
    for number in range(11):
        os.link(world.data.parent / f"{number}.png", tmp_path / f"{number}.png")
    stopped_after(4, recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped")
    assert train(recipe, tmp_path / "whole").skipped > 1
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_interrupted_save_is_written_again(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is saved before the state, so that no state exists without its adapter."""
    recipe, renamed = world.recipe(keep_adapters=True, checkpoint_every=3), Path.replace

    def cut_off(path: Path, target: Path) -> Path:
        if target.parent.parent.name == "step-000006" and target.name == "config.json":
            raise Stopped
        return renamed(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut_off)
        with pytest.raises(Stopped):
            train(recipe, tmp_path / "stopped")
    assert not (tmp_path / "stopped/step-000006/adapter/config.json").exists()
    train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "whole")
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
    for step in (3, 6, 8):
        name = f"step-{step:06d}"
        assert same_bits(weights(tmp_path / "stopped" / name), weights(tmp_path / "whole" / name))
        load_adapter(tmp_path / "stopped" / name / "adapter")


def test_second_training_in_a_busy_folder_raises(world: World, tmp_path: Path) -> None:
    recipe, refused = world.write_recipe(tmp_path / "recipe.toml"), []

    def second(measured: Any) -> None:
        if measured.step == 4:
            refused.append(error_of(vocabkit_here(tmp_path, "train", recipe, "--out", "out")))

    train(world.recipe(), tmp_path / "out", on_step=second)
    assert refused == ["out: another process is writing its results here; wait for it, or choose another folder"]
    train(world.recipe(), tmp_path / "alone")
    assert_same_end(tmp_path / "out", tmp_path / "alone")


def test_output_path_of_a_file_raises(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(VocabkitError, match="out: is a file; name a folder"):
        train(world.recipe(), tmp_path / "out")


def test_finished_training_does_nothing(world: World, tmp_path: Path) -> None:
    first = train(world.recipe(), tmp_path)
    before, state = weights(tmp_path), (tmp_path / "state.pt").read_bytes()
    steps: list[Any] = []
    assert train(world.recipe(), tmp_path, on_step=steps.append) == first
    assert steps == []
    assert same_bits(weights(tmp_path), before)
    assert (tmp_path / "state.pt").read_bytes() == state


def test_folder_of_another_recipe_raises(world: World, tmp_path: Path) -> None:
    train(world.recipe(steps=1), tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(VocabkitError, match=r"state.pt: the state of a training from another recipe"):
        train(world.recipe(steps=2), tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("field", ["data", "features", "shared", "adapter"])
@pytest.mark.parametrize("finished", [False, True])
def test_changed_inputs_are_told_and_the_adapter_left_alone(
    world: World, tmp_path: Path, field: str, finished: bool
) -> None:
    """A head's weights belong to the rows that they were trained for, and to one vision encoder."""
    given, out = tmp_path / "given", tmp_path / "out"
    shutil.copytree(world.data.parent, given / "data")
    shutil.copytree(world.features, given / "features")
    shutil.copy(world.shared, given / "shared.arrow")
    names: dict[str, Any] = {
        "data": (str(given / "data" / world.data.name),),
        "features": str(given / "features"),
        "shared": str(given / "shared.arrow"),
    }
    if field == "adapter":
        first = train(world.recipe(steps=1), tmp_path / "first").adapter
        shutil.copytree(first, given / "adapter")
        names |= {"adapter": str(given / "adapter"), "shared": None}
    recipe = world.recipe(**names, steps=4, checkpoint_every=2)
    if finished:
        train(recipe, out)
    else:
        stopped_after(3, recipe, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    if field == "data":
        data = given / "data" / world.data.name
        data.write_text(data.read_text().replace("a red thing", "a crimson thing"))
    elif field == "features":
        info = given / "features" / "index.json"
        content = json.loads(info.read_text())
        content["encoder"]["fingerprint"] = "sha256:" + "0" * 64
        info.write_text(json.dumps(content))
    elif field == "shared":
        shared = open_shared(world.shared)
        shared.select(np.arange(len(shared))[::-1]).save(given / "shared.arrow")
    else:
        shutil.rmtree(given / "adapter")
        shutil.copytree(train(world.recipe(steps=2), tmp_path / "second").adapter, given / "adapter")
    with pytest.raises(VocabkitError, match=rf"state.pt: what `{field}` of the recipe names changed"):
        train(recipe, out)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_state_of_an_earlier_version_is_resumed(world: World, tmp_path: Path) -> None:
    """It says nothing of inputs."""
    recipe = world.recipe(checkpoint_every=2)
    train(recipe, tmp_path / "whole")
    stopped_after(3, recipe, tmp_path / "stopped")
    whole = torch.load(tmp_path / "stopped" / "state.pt", weights_only=False)
    del whole["inputs"]
    torch.save(whole, tmp_path / "stopped" / "state.pt")
    train(recipe, tmp_path / "stopped")
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


def test_damaged_state_raises(world: World, tmp_path: Path) -> None:
    train(world.recipe(steps=1), tmp_path)
    state = tmp_path / "state.pt"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(VocabkitError, match=r"state.pt: truncated"):
        train(world.recipe(steps=1), tmp_path)
    torch.save({"step": 1}, state)
    with pytest.raises(VocabkitError, match=r"state.pt: not the state of a training"):
        train(world.recipe(steps=1), tmp_path)


def test_state_without_one_of_the_tensors_raises(world: World, tmp_path: Path) -> None:
    recipe = world.recipe(checkpoint_every=3)
    stopped_after(4, recipe, tmp_path)
    whole = torch.load(tmp_path / "state.pt", weights_only=False)
    for name in whole["model"]:
        fewer = {key: tensor for key, tensor in whole["model"].items() if key != name}
        torch.save({**whole, "model": fewer}, tmp_path / "state.pt")
        with pytest.raises(VocabkitError, match=r"state.pt: its tensors are not those of this training"):
            train(recipe, tmp_path)


def test_each_step_draws_its_own_dropout_and_a_resumed_run_the_same(world: World, tmp_path: Path) -> None:
    def drawn(out: str, **changes: Any) -> list[float]:
        found: list[float] = []
        recipe = world.recipe(checkpoint_every=3, **changes)
        train(recipe, tmp_path / out, on_step=lambda _: found.append(torch.rand(()).item()))
        return found

    stopped_after(4, world.recipe(checkpoint_every=3), tmp_path / "stopped")
    whole, resumed, other = drawn("whole"), drawn("stopped"), drawn("other", seed=1)
    assert len({*whole, *other}) == len(whole) + len(other) == 16
    assert resumed == whole[3:]


def test_training_stopped_before_its_first_save_restarts_with_any_recipe(world: World, tmp_path: Path) -> None:
    stopped_after(2, world.recipe(), tmp_path / "out")
    train(world.recipe(seed=1), tmp_path / "out")
    train(world.recipe(seed=1), tmp_path / "whole")
    assert_same_end(tmp_path / "out", tmp_path / "whole")
