"""transfer --scale captions chooses the scale of least caption loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_of, vocabkit_here
from small_world import World

from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.evaluate import calibrate as calibration
from vocabkit.evaluate.losses import Losses
from vocabkit.train.train import train


@pytest.fixture(scope="module")
def adapter(world: World, tmp_path_factory: pytest.TempPathFactory) -> LangBridgeAdapter:
    """Trained with LLM one."""
    found = load_adapter(train(world.recipe(steps=60), tmp_path_factory.mktemp("adapter")).adapter)
    assert isinstance(found, LangBridgeAdapter)
    return found


def words(world: World, *more: str | Path) -> tuple[str | Path, ...]:
    """The command on the LLM that the adapter was trained with."""
    data = ("--data", world.data, "--features", world.features, "--template", "completion")
    return ("transfer", "adapter.pt", "--to", world.one, "--scale", "captions", *data, "--out", "scaled", *more)


def calibrated(world: World, adapter: LangBridgeAdapter, folder: Path, *more: str) -> dict[str, Any]:
    """The calibration that the command reports."""
    adapter.save(folder / "adapter.pt")
    done = vocabkit_here(folder, *words(world, "--json", *more))
    assert done.returncode == 0, done
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["preflight"]["scale"] == found["calibration"]["scale"]
    calibration: dict[str, Any] = found["calibration"]
    return calibration


def louder(adapter: LangBridgeAdapter, factor: float) -> LangBridgeAdapter:
    """A copy whose visual tokens are `factor` times as long."""
    tensors = {
        name: tensor * (factor if name.startswith("head") else 1) for name, tensor in adapter.state_dict().items()
    }
    return LangBridgeAdapter.from_parts(Path("louder"), adapter.config, tensors, adapter.shared)


def test_wrong_scale_is_corrected_and_recorded(world: World, adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    found = calibrated(world, louder(adapter, 4), tmp_path)
    assert 0.125 <= found["scale"] <= 0.5
    losses = found["caption_loss"]
    assert losses[str(found["scale"])] == min(losses.values())
    assert found["best"] == found["scale"]
    assert found["gain"]["low"] > 0
    assert LangBridgeAdapter.from_pretrained(tmp_path / "scaled", kind="transferred").scale == found["scale"]


def test_uncertain_gain_keeps_the_scale(
    world: World, adapter: LangBridgeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)  # losses that jump from scale to scale and from sample to sample
    monkeypatch.setattr(calibration, "measure", lambda *_, **__: Losses(random.normal(30, 9, 12), np.full(12, 10)))
    adapter.save(tmp_path / "adapter.pt")
    done = vocabkit_here(tmp_path, *words(world))
    shown = " ".join(done.stdout.split())
    assert "nats per token, which may be chance, so the scale is kept" in shown
    assert "scale 1 for one, chosen on 12 samples written: scaled" in shown
    assert LangBridgeAdapter.from_pretrained(tmp_path / "scaled", kind="transferred").scale == 1


def test_sample_limit_is_respected(world: World, adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    assert calibrated(world, adapter, tmp_path, "--limit", "5")["samples"] == 5


def test_few_pictures_keep_the_scale(world: World, adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    louder(adapter, 4).save(tmp_path / "adapter.pt")
    shown = " ".join(vocabkit_here(tmp_path, *words(world, "--limit", "7")).stdout.split())
    assert "7 different pictures are too few (fewer than 8) to tell the scales apart, so the scale is kept" in shown
    assert "scale 1 for one, chosen on 7 samples" in shown


def test_best_scale_at_the_edge_of_the_grid_raises(world: World, adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    louder(adapter, 1e6).save(tmp_path / "adapter.pt")
    problem = error_of(vocabkit_here(tmp_path, *words(world)))
    assert "the loss is lowest at the smallest or largest scale tried" in problem
    assert "set --scale to rms or a number" in problem
    assert not (tmp_path / "scaled").exists()


def test_weights_without_their_llm_raise(world: World, tmp_path: Path) -> None:
    assert "leave out --weights" in error_of(vocabkit_here(tmp_path, *words(world, "--weights", "elsewhere")))
