"""The scale of a transferred adapter is the one with the least caption loss on other samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, vocabkit_here
from small_world import World

from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.evaluate import calibrate as calibration
from vocabkit.evaluate.losses import Losses
from vocabkit.train.train import train
from vocabkit.transfer.target import open_target
from vocabkit.transfer.transfer import transfer


@pytest.fixture(scope="module")
def adapter(world: World, tmp_path_factory: pytest.TempPathFactory) -> LangBridgeAdapter:
    """Trained with LLM one."""
    found = load_adapter(train(world.recipe(steps=60), tmp_path_factory.mktemp("adapter")).adapter)
    assert isinstance(found, LangBridgeAdapter)
    return found


def calibrated(world: World, adapter: LangBridgeAdapter, folder: Path, scale: float, *more: str) -> dict[str, object]:
    """What the command finds for the adapter on the LLM that it was trained with, at a scale that is off."""
    transfer(adapter, open_target(world.one)[0], scale=scale)[0].save(folder / "moved")
    words = ("calibrate", "moved", world.data, "--llm", world.one, "--features", world.features, "--out", "scaled")
    done = vocabkit_here(folder, *words, "--template", "completion", "--json", *more)
    assert (done.returncode, done.stderr) == (0, ""), done
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_undoes_a_scale_that_is_off_and_records_it(world: World, adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    found = calibrated(world, adapter, tmp_path, 4.0)
    assert 0.5 <= found["scale"] <= 2  # type: ignore[operator]
    losses = found["caption_loss"]
    assert isinstance(losses, dict)
    assert losses[str(found["scale"])] == min(losses.values())
    assert found["best"] == found["scale"]
    assert found["gain"]["low"] > 0  # type: ignore[index]
    assert LangBridgeAdapter.from_pretrained(tmp_path / "scaled", kind="transferred").scale == found["scale"]
    assert LangBridgeAdapter.from_pretrained(tmp_path / "moved", kind="transferred").scale == 4.0


def test_a_gain_that_may_be_chance_leaves_the_scale_as_it_is(
    world: World, adapter: LangBridgeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses that jump from scale to scale and from sample to sample."""
    random = np.random.default_rng(1)
    monkeypatch.setattr(calibration, "measure", lambda *_, **__: Losses(random.normal(30, 9, 12), np.full(12, 10)))
    transfer(adapter, open_target(world.one)[0], scale=0.5)[0].save(tmp_path / "moved")
    words = ("calibrate", "moved", world.data, "--llm", world.one, "--features", world.features, "--out", "scaled")
    done = vocabkit_here(tmp_path, *words, "--template", "completion")
    assert "nats per token, which may be chance, so the scale stays as it is" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("scaled: scale 0.5 for one")
    assert LangBridgeAdapter.from_pretrained(tmp_path / "scaled", kind="transferred").scale == 0.5


def test_a_place_that_is_taken_is_refused_before_anything_is_measured(world: World, tmp_path: Path) -> None:
    (tmp_path / "scaled").mkdir()
    (tmp_path / "scaled/notes.txt").touch()
    words = ("calibrate", "absent", world.data, "--llm", world.one, "--features", world.features, "--out", "scaled")
    assert error_of(vocabkit_here(tmp_path, *words)).startswith("scaled: exists and is not a transferred adapter")


def test_samples_are_limited(world: World, adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    assert calibrated(world, adapter, tmp_path, 1.0, "--limit", "5")["samples"] == 5


def test_a_scale_that_is_off_by_more_than_is_tried_is_refused(
    world: World, adapter: LangBridgeAdapter, tmp_path: Path
) -> None:
    transfer(adapter, open_target(world.one)[0], scale=1e-6)[0].save(tmp_path / "moved")
    words = ("calibrate", "moved", world.data, "--llm", world.one, "--features", world.features, "--out", "scaled")
    problem = error_of(vocabkit_here(tmp_path, *words, "--template", "completion"))
    assert "the loss is least at the smallest or largest scale tried" in problem
    assert not (tmp_path / "scaled").exists()
