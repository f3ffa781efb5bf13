"""The small world, made once, and adapters in it; without torch there is only what needs none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from infer_world import InferWorld

if not importlib.util.find_spec("torch"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> InferWorld:
    """Its files are for reading."""
    from infer_world import make_infer_world

    return make_infer_world(Path(tmp_path_factory.mktemp("inference")))
