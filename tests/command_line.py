"""The command line as users run it: the installed program, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "vocabkit"
TIMEOUT = 120
"""Seconds after which a command counts as hanging."""


def vocabkit(folder: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `vocabkit WORDS` in `folder`, piped, in a terminal of 80 columns if it asks."""
    return subprocess.run(
        [PROGRAM, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=TIMEOUT,
        check=False,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command refuses its input; asserts that it is the way it should be."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    *notes, problem = done.stderr.splitlines()
    assert problem.startswith("error: ")
    assert not any(line.startswith(("error", "Traceback", " ")) for line in notes)
    assert problem.isprintable()
    return problem.removeprefix("error: ")
