"""An empty hub cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty Hugging Face cache."""
    return tmp_path / "hf-home"
