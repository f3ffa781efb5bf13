"""The small world, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Read-only."""
    return make_world(Path(tmp_path_factory.mktemp("world")) / "small")
