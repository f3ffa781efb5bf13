"""The small world, made once; without torch there is only what needs none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from small_world import World

if not importlib.util.find_spec("torch"):
    collect_ignore = ["test_losses.py", "test_rivals.py", "test_answers.py", "test_validate.py", "test_calibration.py"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Its files are for reading."""
    from small_world import make_world

    return make_world(Path(tmp_path_factory.mktemp("small")) / "world")
