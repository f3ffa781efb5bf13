"""Empty environments, one for each Python at hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

Done = subprocess.CompletedProcess[str]


def python_of(folder: Path, base: str | Path, *install: str | Path) -> Path:
    """The interpreter of a new environment in `folder`, in which pip installed what `install` says."""
    run(base, "-m", "venv", folder)
    python = folder / "bin" / "python"
    if install:
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *install)
    return python


def pythons() -> dict[str, Path]:
    """Version (such as 3.12) to interpreter: what PATH and pyenv have from 3.11 on."""
    found: dict[str, Path] = {}
    folders = [*map(Path, os.environ["PATH"].split(os.pathsep)), *Path.home().glob(".pyenv/versions/*/bin")]
    for minor in range(11, 20):
        for python in (folder / f"python3.{minor}" for folder in folders):
            if python.exists() and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
                found.setdefault(f"3.{minor}", python)
    return found


def run(program: str | Path, *words: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    """Run a program that must succeed, without what this environment would lend it."""
    done = attempt(program, *words, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def attempt(program: str | Path, *words: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    """As `run`, of a program that may fail."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [program, *words],
        cwd=cwd,
        env={**inherited, "COLUMNS": "80", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
