"""One attempt at a command: a child of this process that runs it, and is killed at some moment if it is to be.

The parent has imported what commands import, but runs none of them, so that it has no threads and can fork: a child
starts in milliseconds, and its time is that of the command itself.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 120
"""Seconds after which a command counts as hanging."""
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}


@dataclass(frozen=True)
class Ended:
    """How an attempt ended."""

    code: int
    """Exit code, or minus the signal that killed it."""
    seconds: float
    stderr: str
    steps: int
    """Changes to files that it began, as far as Python sees them: opened for writing, renamed, removed, made."""
    modules: tuple[str, ...]
    """What it had imported at its end."""


def attempt(
    words: Sequence[str], folder: Path, *, kill_after: float | None = None, kill_at: int | None = None
) -> Ended:
    """Run `vocabkit WORDS` in `folder`.

    Args:
        kill_after: seconds after which it is killed, if it still runs.
        kill_at: the change to files, counted from 0, before which it is killed.
    """
    return finished(started(words, folder, kill_at), kill_after)


@dataclass(frozen=True)
class Child:
    """A command that runs."""

    pid: int
    stderr: Path
    report: Path
    start: float


def started(words: Sequence[str], folder: Path, kill_at: int | None = None) -> Child:
    """A child that runs the command."""
    name = os.urandom(4).hex()
    child = Child(0, folder.parent / f"{name}.stderr", folder.parent / f"{name}.report", time.monotonic())
    child.stderr.touch()
    pid = os.fork()
    if pid == 0:
        try:
            _run(words, folder, child, kill_at)
        finally:
            os._exit(99)
    return Child(pid, child.stderr, child.report, child.start)


def finished(child: Child, kill_after: float | None = None) -> Ended:
    """Wait for a child, and kill it when its time is up."""
    limit = TIMEOUT if kill_after is None else kill_after
    handle = os.pidfd_open(child.pid)
    try:
        if not select.select([handle], [], [], max(0.0, child.start + limit - time.monotonic()))[0]:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
    finally:
        os.close(handle)
    seconds = time.monotonic() - child.start
    assert kill_after is not None or seconds < TIMEOUT, "a command that hangs"
    steps, modules = json.loads(child.report.read_text()) if child.report.exists() else (0, [])
    ended = Ended(os.waitstatus_to_exitcode(status), seconds, child.stderr.read_text("utf-8"), steps, tuple(modules))
    child.stderr.unlink()
    child.report.unlink(missing_ok=True)
    child.report.with_suffix(".begun").unlink(missing_ok=True)
    return ended


def _run(words: Sequence[str], folder: Path, child: Child, kill_at: int | None) -> None:
    for number, file in ((1, Path(os.devnull)), (2, child.stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    sys.argv = ["vocabkit", *words]
    from vocabkit_cli import __main__ as program

    steps = _watch(kill_at)
    leave = os._exit

    def report(code: int) -> None:
        begun = child.report.with_suffix(".begun")  # a kill may come while the report is written
        begun.write_text(json.dumps([steps(), sorted(sys.modules)]))
        begun.replace(child.report)
        leave(code)

    os._exit = report  # type: ignore[assignment]
    program.run()


def _watch(kill_at: int | None) -> Callable[[], int]:
    """Count changes to files from here on, and end this process before number `kill_at`."""
    steps = 0

    def see(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event in _CHANGES or (event == "open" and _writes(arguments)):
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    sys.addaudithook(see)
    return lambda: steps


def _writes(arguments: tuple[object, ...]) -> bool:
    path, _, flags = arguments
    writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return writes and not str(path).startswith(("/dev/", "/proc/"))


def import_all(modules: Sequence[str]) -> None:
    """Import here what a child had imported, so that the next one need not."""
    for name in modules:
        if name not in sys.modules and not name.startswith("__"):
            with suppress(Exception):
                importlib.import_module(name)
