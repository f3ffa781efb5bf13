"""Every command with every wrong partner: refused in one line, whatever its width; docs/transfer.md is about this."""

from __future__ import annotations

from pathlib import Path

import pytest
from partner_commands import (
    LLM_COMMANDS,
    VISION_COMMANDS,
    make_world,  # noqa: F401 - a fixture
    refuse_encoder,
    refuse_llm,
    take_moved_encoder,
    take_moved_llm,
    take_tuned_llm,
)
from partner_world import LLM_ENDINGS, VISION_ENDINGS, PartnerWorld


@pytest.mark.parametrize("ending", LLM_ENDINGS)
@pytest.mark.parametrize("name", LLM_COMMANDS)
def test_wrong_llm_raises(world: PartnerWorld, tmp_path: Path, name: str, ending: str) -> None:
    refuse_llm(world, tmp_path, name, ending)


@pytest.mark.parametrize("name", LLM_COMMANDS)
def test_moved_llm_is_taken(world: PartnerWorld, tmp_path: Path, name: str) -> None:
    take_moved_llm(world, tmp_path, name)


@pytest.mark.parametrize("name", [name for name in LLM_COMMANDS if "rival" not in name])
def test_tuned_llm_is_taken_when_asked_for(world: PartnerWorld, tmp_path: Path, name: str) -> None:
    take_tuned_llm(world, tmp_path, name)


@pytest.mark.parametrize("ending", VISION_ENDINGS)
@pytest.mark.parametrize("name", VISION_COMMANDS)
def test_wrong_encoder_raises(world: PartnerWorld, tmp_path: Path, name: str, ending: str) -> None:
    refuse_encoder(world, tmp_path, name, ending)


@pytest.mark.parametrize("name", VISION_COMMANDS)
def test_moved_encoder_is_taken(world: PartnerWorld, tmp_path: Path, name: str) -> None:
    take_moved_encoder(world, tmp_path, name)
