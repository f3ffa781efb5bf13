"""docs/maintainers/architecture.md shows the way through the main commands as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/maintainers/architecture.md").read_text("utf-8")
GOLDEN, SOURCES = ROOT / "tests/golden/inputs", ROOT / ".sources"
COMMANDS = {
    "build-shared": ["qwen2", "llama3", "--out", "shared.arrow"],
    "transfer": [
        ROOT / "data/smollm2-scenes.pt", "--to", "gemma3", "--weights", SOURCES / "gemma-3-270m-q4_k_m.gguf",
        "--out", "moved",
    ],
    "infer": [GOLDEN / "moved-linear", GOLDEN / "0.png", "--out", "seen", "--vision", GOLDEN / "vision"],
}  # fmt: skip


@pytest.mark.robust
@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("command", COMMANDS)
def test_walk_shows_the_files_entered(tmp_path: Path, command: str) -> None:
    if command != "build-shared":
        pytest.importorskip("torch")
    shown = re.search(rf"`vocabkit {command} .*?```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    words = [sys.executable, ROOT / "docs/flow.py", command, *COMMANDS[command]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == shown[1]
