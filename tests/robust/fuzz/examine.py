"""One input through one reader: what went wrong, or that nothing did."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from vocabkit.errors import VocabkitError

SECONDS = 5
"""After which an input counts as a hang."""
FACTOR, BASE = 20, 64 << 20
"""An input of n bytes may make the process larger by FACTOR n + BASE bytes."""


@dataclass(frozen=True)
class Finding:
    """What must not happen."""

    kind: str
    """`exception`, `message`, `hang`, `memory`, `output` or `litter`."""
    detail: str


class _Hang(BaseException):
    """The time is up."""


def examine(read: Callable[[Path], object], path: Path, content: bytes) -> Finding | None:
    """Write `content` to `path`, read it, and say what went wrong, if anything did.

    A reader returns, or refuses with one printable line; it writes nothing, to no file and no stream, and warns of
    nothing; and it needs no more than `SECONDS` and `FACTOR`, `BASE` bytes of memory.
    """
    path.unlink(missing_ok=True)  # what an earlier input left mapped must not change
    path.write_bytes(content)
    before = _names(path.parent)
    peak = _Peak()
    with _captured(path.parent) as printed, warnings.catch_warnings(record=True, action="always") as warned:
        found = _outcome(read, path)
    grown = peak.grown()
    if found is None and grown > FACTOR * len(content) + BASE:
        found = Finding("memory", f"{grown:,} bytes for a file of {len(content):,}")
    if found is None and printed():
        found = Finding("output", printed()[:300])
    if found is None and warned:
        found = Finding("output", str(warned[0].message)[:300])
    if found is None and _names(path.parent) != before:
        found = Finding("litter", str(sorted(_names(path.parent) ^ before)))
    return found


def _outcome(read: Callable[[Path], object], path: Path) -> Finding | None:
    try:
        with _alarm():
            read(path)
    except VocabkitError as error:
        message = str(error)
        if not message.isprintable():
            return Finding("message", ascii(message))
    except _Hang:
        return Finding("hang", "".join(traceback.format_stack(limit=3)))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "vocabkit" in frame.filename]
        place = ours[-1] if ours else last
        return Finding("exception", f"{type(error).__name__}: {error} at {Path(place.filename).name}:{place.lineno}")
    return None


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)}


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Hang

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _captured(folder: Path) -> Iterator[Callable[[], str]]:
    """What is printed meanwhile, by Python or past it, by a library to file descriptor 2."""
    text, log = StringIO(), folder.parent / f"{folder.name}.stderr"
    saved, file = os.dup(2), os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    try:
        with redirect_stdout(text), redirect_stderr(text):
            yield lambda: text.getvalue() + log.read_text("utf-8", "replace")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(file)


class _Peak:
    """How far the memory of the process grows, where the system tells: Linux."""

    _CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def __init__(self) -> None:
        try:
            self._CLEAR.write_text("5")  # the peak starts anew at what is in use
            self._start: int | None = self._kilobytes("VmRSS")
        except OSError:
            self._start = None

    def grown(self) -> int:
        """Bytes, 0 where nobody knows."""
        return 0 if self._start is None else 1024 * (self._kilobytes("VmHWM") - self._start)

    def _kilobytes(self, name: str) -> int:
        lines = self._STATUS.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
