"""Shared by all tests: where real tokenizers are, and caches that tests can't spoil."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, by whichever test
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not chosen

SOURCES = Path(__file__).parent.parent / ".sources"

collect_ignore = [] if importlib.util.find_spec("torch") else ["adapters", "evaluation", "training", "vision"]


@pytest.fixture(scope="session")
def sources() -> Path:
    """Folder with the publishers' packages of tests/sources.txt."""
    if not (SOURCES / ".complete").exists():
        pytest.fail("no .sources/ folder: run `make test`, which fetches the real tokenizers from PyPI")
    return SOURCES


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's Hugging Face cache, or reaches the network."""
    home = tmp_path_factory.getbasetemp() / "hf-home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")
