"""Wrong partners are refused in one line, whatever their width: a few commands; tests/robust has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from partner_commands import (
    make_world,  # noqa: F401 - a fixture
    refuse_encoder,
    refuse_llm,
    take_moved_encoder,
    take_moved_llm,
    take_tuned_llm,
)
from partner_world import PartnerWorld


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("infer captions, moved", "weights"),
        ("interpret, native", "tokenizer"),
        ("validate, projector", "weights"),
        ("train, moved", "tokenizer"),
        ("export llava, projector", "tokenizer"),
    ],
)
def test_wrong_llm_raises(world: PartnerWorld, tmp_path: Path, name: str, ending: str) -> None:
    refuse_llm(world, tmp_path, name, ending)


@pytest.mark.parametrize("name", ["infer captions, moved", "interpret, native"])
def test_moved_llm_is_taken(world: PartnerWorld, tmp_path: Path, name: str) -> None:
    take_moved_llm(world, tmp_path, name)


@pytest.mark.parametrize("name", ["validate, moved", "train, projector"])
def test_tuned_llm_is_taken_when_asked_for(world: PartnerWorld, tmp_path: Path, name: str) -> None:
    take_tuned_llm(world, tmp_path, name)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("infer", "siglip"),
        ("export mmproj", "pixels"),
        ("train on features", "weights"),
        ("validate", "siglip"),
        ("validate, pictures", "weights"),
        ("check", "pixels"),
    ],
)
def test_wrong_encoder_raises(world: PartnerWorld, tmp_path: Path, name: str, ending: str) -> None:
    refuse_encoder(world, tmp_path, name, ending)


@pytest.mark.parametrize("name", ["infer", "check"])
def test_moved_encoder_is_taken(world: PartnerWorld, tmp_path: Path, name: str) -> None:
    take_moved_encoder(world, tmp_path, name)
