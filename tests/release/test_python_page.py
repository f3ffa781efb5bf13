"""docs/python.md: its sessions print what the page shows."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path
from typing import Any

import pytest
from page import HAS_TORCH, sessions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that sessions run in: as after `make demo`, with docs/examples beside, and an LLM called my-llm."""
    shutil.copytree(ROOT / "docs/examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / ".sources").symlink_to(sources)
    if HAS_TORCH:
        from small_world import make_world

        make_world(tmp_path / "world")
        (tmp_path / "my-llm").symlink_to("world/one")
    monkeypatch.chdir(tmp_path)


@pytest.mark.robust
@pytest.mark.usefixtures("clone")
def test_the_sessions_print_what_the_page_shows() -> None:
    names: dict[str, Any] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for session in sessions():
        session.globs = names
        runner.run(session, out=said.append, clear_globs=False)
    assert not said, "".join(said)
    assert runner.tries > 20
