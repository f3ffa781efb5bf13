"""Run the command line: in this process, or as users do in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from unittest import mock

from vocabkit_cli import app
from vocabkit_cli.show import SCHEMA

PROGRAM = Path(sys.executable).parent / "vocabkit"
TIMEOUT = 120
"""Seconds after which a command counts as hanging."""
_LEAN = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        heavy = {"pandas", "pyarrow.compute", "sympy"} | set(HEAVY)  # sympy comes with the compiler of torch
        assert name not in heavy, f"{name} takes longer than most commands"
sys.meta_path.insert(0, Refused())
sys.argv = ["vocabkit", *sys.argv[1:]]
from vocabkit_cli.__main__ import run
run()
"""

Done = subprocess.CompletedProcess[str]


def vocabkit(folder: Path, *words: str | Path, **environment: str) -> Done:
    """Run `vocabkit WORDS` in `folder`, piped, with 80 columns: for what only a process shows, as its exit."""
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


def vocabkit_lean(folder: Path, *words: str, without: Collection[str] = ()) -> Done:
    """Run `vocabkit WORDS` in a process that fails if it imports pandas, pyarrow.compute, torch's compiler or a
    package in `without`.
    """
    return subprocess.run(
        [sys.executable, "-c", f"HEAVY = {sorted(without)!r}" + _LEAN, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def vocabkit_here(folder: Path, *words: str | Path, **environment: str) -> Done:
    """Run `vocabkit WORDS` in this process, which saves importing everything again."""
    arguments = ["vocabkit", *map(str, words)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape") for _ in range(2))
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"COLUMNS": "80", **environment}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", arguments),
    ):
        try:
            app.main()
            code: object = None
        except SystemExit as ended:
            code = ended.code
    printed = []
    for stream in (out, err):
        stream.seek(0)
        printed.append(stream.read())
    return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else int(code is not None), *printed)


def error_of(done: Done) -> str:
    """Return the one-line error of a refused command; assert exit code 2, no traceback, and nothing on stdout but, with
    --json, the error.
    """
    assert done.returncode == 2, done
    *notes, problem = done.stderr.splitlines()
    assert problem.startswith("error: ")
    assert not any(line.startswith(("error", "Traceback", " ")) for line in notes)
    assert problem.isprintable()
    problem = problem.removeprefix("error: ")
    assert not done.stdout or json.loads(done.stdout) == {"schema": SCHEMA, "error": problem}
    return problem
