"""How tests run other programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PYTHON = "ECOSYSTEM_PYTHON"
"""The environment variable with the Python that has these programs."""


def in_ecosystem(folder: Path, *words: str | Path) -> str:
    """Run Python with these words in `folder`, offline; returns what it prints."""
    done = subprocess.run(
        [os.environ[PYTHON], *words],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
