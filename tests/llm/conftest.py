"""The small world, made once, and an empty hub cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import World, make_world


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty Hugging Face cache."""
    return tmp_path / "hf-home"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Its files are for reading."""
    return make_world(Path(tmp_path_factory.mktemp("small")) / "world")
