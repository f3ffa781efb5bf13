"""Caption losses of held-out samples, and the intervals of what follows from them."""

from __future__ import annotations

import math
from itertools import repeat

import numpy as np
import pytest
import torch
from small_world import World

from vocabkit.adapter.model import load_adapter
from vocabkit.data.llava import read_llava
from vocabkit.evaluate.losses import Losses, difference, mean_loss, measure, prepare, retention, shown_by
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM, collate
from vocabkit.llm.prompts import with_visual_tokens
from vocabkit.train.train import train
from vocabkit.vision.features import open_features


def losses(samples: int, mean: float, *, seed: int = 0, spread: float = 0.5) -> Losses:
    """Losses of samples of different lengths around one loss per token."""
    random = np.random.default_rng(seed)
    tokens = random.integers(3, 12, samples)
    return Losses(tokens * (mean + spread * random.standard_normal(samples)), tokens)


def test_losses_do_not_depend_on_the_batch_size(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    trained = train(world.recipe(steps=2), tmp_path_factory.mktemp("short"))
    llm, features = load_llm(world.one), open_features(world.features)
    lvlm = LVLM(llm, load_adapter(trained.adapter))
    held, kept = prepare(llm, list(read_llava(world.data)), features, "completion")
    seen: list[tuple[str, int, int | None]] = []
    found = measure(
        llm,
        held,
        shown_by(lvlm, held),
        batch=5,
        progress=lambda *step: seen.append(step),
    )
    with torch.no_grad():
        images = [features[key].float() for key in held.keys]
        prompts = [with_visual_tokens(prompt, repeat(features.tokens)) for prompt in held.prompts]
        expected = lvlm(collate(prompts, images))
    assert found.nats == pytest.approx(expected.double().numpy(), rel=1e-4)
    assert found.tokens.tolist() == [len(f" {sample.turns[0].answer}") for sample in kept]
    assert found.mean == pytest.approx(found.nats.sum() / found.tokens.sum())
    assert seen == [("caption loss", done, 12) for done in (5, 10, 12)]


@pytest.mark.parametrize("samples", [1, 7, 100])
def test_interval_holds_the_value(samples: int) -> None:
    found = mean_loss(losses(samples, 3.0))
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(losses(samples, 3.0).mean)
    assert (found.low == found.high) == (samples == 1)


def test_paired_difference_has_a_narrower_interval_than_either_loss() -> None:
    one = losses(200, 3.0)
    better = Losses(one.nats - 0.1 * one.tokens, one.tokens)
    found = difference(one, better)
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert mean_loss(one).low < mean_loss(better).high
    chance = difference(losses(200, 3.0, seed=1), losses(200, 3.0, seed=1))
    assert chance.low <= 0 <= chance.high


def test_interval_shrinks_with_the_square_root_of_the_samples() -> None:
    few, many = (mean_loss(losses(samples, 3.0)) for samples in (50, 5000))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(10, rel=0.3)


def test_interval_approaches_the_normal_one() -> None:
    one = Losses(losses(2000, 3.0).nats / losses(2000, 3.0).tokens, np.ones(2000, int))
    found, error = mean_loss(one), one.nats.std() / math.sqrt(2000)
    assert found.low == pytest.approx(one.mean - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(one.mean + 1.96 * error, abs=0.3 * error)


def test_draws_follow_the_seed() -> None:
    assert mean_loss(losses(20, 3.0)) == mean_loss(losses(20, 3.0))
    assert mean_loss(losses(20, 3.0)) != mean_loss(losses(20, 3.0), seed=1)


def test_retention_is_one_for_native_and_zero_for_blind() -> None:
    blind, native = losses(30, 6.0), losses(30, 3.0, seed=1)
    one, none = retention(blind, native, native), retention(blind, blind, native)
    assert (one.value, one.low, one.high) == (1, 1, 1)
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_retention_is_the_share_of_the_gain_with_paired_draws() -> None:
    blind, native = losses(200, 6.0), losses(200, 3.0, seed=1)
    half = Losses((blind.nats + native.nats) / 2, blind.tokens)
    native = Losses(native.nats, blind.tokens)
    half = Losses((blind.nats + native.nats) / 2, blind.tokens)
    found = retention(blind, half, native)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    worse = retention(blind, Losses(2 * blind.nats - native.nats, blind.tokens), native)
    assert worse.value == pytest.approx(-1)


def test_retention_without_a_gain_is_not_finite() -> None:
    blind = losses(30, 6.0)
    assert not math.isfinite(retention(blind, losses(30, 5.0), blind).value)
