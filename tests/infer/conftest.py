"""The small world with adapters in it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from infer_world import InferWorld, make_infer_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> InferWorld:
    """A finished run, read-only."""
    return make_infer_world(Path(tmp_path_factory.mktemp("inference")))
