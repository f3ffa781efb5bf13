"""How commands show values: lines, Rich or JSON on stdout, progress bars on stderr where it is a terminal."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import TaskID

    from vocabkit.shared.shared_vocabulary import SharedVocabulary

SCHEMA = 1
"""Version of what --json prints: raised when a field is renamed, removed or changes its meaning."""


@dataclass
class Run:
    """What is to be known of the command that runs."""

    quiet: bool = False
    """-q: no notes and no progress."""
    kept: Callable[[], str] = lambda: "nothing was written"
    """What an interruption leaves, and how to go on."""


running = Run()
"""There is one command in a process at a time; `main` resets it."""


def say(line: str, *, unbroken: bool = False) -> None:
    """Print a line of data; control characters in names and paths are escaped.

    Args:
        unbroken: leave the line to the terminal, for what is to be copied.
    """
    from vocabkit.errors import one_line

    print(one_line(line) if unbroken else fitted(line, sys.stdout), flush=True)


def fitted(line: str, stream: TextIO) -> str:
    """`line` without control characters; on a terminal, broken between words only, so that paths stay whole."""
    from vocabkit.errors import one_line

    line = one_line(line)
    width = shutil.get_terminal_size().columns
    if len(line) <= width or not stream.isatty():
        return line
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def note(line: str, *, unbroken: bool = False) -> None:
    """Print a line on stderr, as `say` does on stdout; not with --quiet.

    Args:
        unbroken: leave the line to the terminal, for what is to be copied.
    """
    from vocabkit.errors import one_line

    if not running.quiet:
        print(one_line(line) if unbroken else fitted(line, sys.stderr), file=sys.stderr)


@contextmanager
def showing_warnings(worded: Callable[[str], str]) -> Iterator[None]:
    """Show each warning of the library as a note, once, in the words that `worded` gives it."""
    from vocabkit.errors import VocabkitWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", VocabkitWarning)
        others, told = warnings.showwarning, set[str]()

        def show_once(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, VocabkitWarning):
                others(message, category, *where)
            elif str(message) not in told:
                told.add(str(message))
                note(f"note: {worded(str(message))}")

        warnings.showwarning = show_once  # type: ignore[assignment]
        yield


def note_broken(broken: int, pictures: int, problems: Iterable[str]) -> None:
    """Say on stderr how many pictures were left out, if any, and why."""
    if broken:
        note(f"{broken:,} of {pictures:,} pictures are missing or broken and were left out:")
        for problem in problems:
            note(f"  {problem}")


def note_left(left: int) -> None:
    """Say on stderr how many pictures of other parts are not there yet, if any."""
    from vocabkit.errors import counted

    if left:
        those = f"{counted(left, 'picture')} {'is' if left == 1 else 'are'}"
        note(f"{those} of other parts, and not there yet; the part that ends last completes the folder")


def show(renderable: Any) -> None:
    """Print a Rich renderable, in colour only on a terminal."""
    from rich.console import Console

    # a word longer than the line is not broken: paths and fingerprints can be copied
    Console(highlight=False).print(renderable, overflow="ignore", crop=False)


def show_json(value: Any) -> None:
    """Print any result of the library that has names for its parts as JSON, after the version of its form."""
    from vocabkit.report.as_json import plain, to_json

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8, whatever the terminal's encoding
    print(to_json({"schema": SCHEMA, **plain(value)}), flush=True)


def shared_as_json(path: Path, shared: SharedVocabulary) -> dict[str, Any]:
    """Describe a shared vocabulary for --json."""
    return {
        "file": path,
        "rows": len(shared),
        "fingerprint": shared.fingerprint,
        "tokenizers": shared.tokenizers,
        "selection": shared.selection,
        "roles": shared.roles,
    }


class Show(Protocol):
    """Shows how far a step is; a `Progress` that can tell more."""

    def __call__(self, what: str, done: int, total: int | None, more: str = "") -> None:
        """Show that `done` of `total` (None if unknown) are done of the step `what`; `more` is shown beside it."""


@contextmanager
def show_progress(kept: Callable[[], str] | None = None) -> Iterator[Show]:
    """Show on stderr how far each reported step is: a bar on a terminal, else a line every half minute.

    Begin it before the library is imported: it shows at once that something is going on.

    Args:
        kept: what an interruption leaves, and how to go on.
    """
    running.kept = kept or running.kept
    if running.quiet:
        yield lambda what, done, total, more="": None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        lines = _Lines()
        try:
            yield lines.show
        finally:
            lines.ended.set()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on stderr that a step runs which can't say how far it is."""
    with show_progress() as progress:
        progress(what, 0, None)
        yield


@contextmanager
def _bars() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    from vocabkit.errors import one_line

    class Count(ProgressColumn):
        """Number done, and how many per second."""

        def render(self, task: Task) -> Text:
            if task.total is None and not task.completed:
                return Text("")
            total = "?" if task.total is None else _short(task.total)
            rate = "" if task.speed is None else f", {_rate(task.speed)}"
            return Text(f"{_short(task.completed)}/{total}{rate}")

    class Time(ProgressColumn):
        """Time left where it is known, else time spent."""

        def render(self, task: Task) -> Text:
            return (TimeElapsedColumn() if task.total is None else TimeRemainingColumn()).render(task)

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), Count(), Time(),
        TextColumn("{task.fields[more]}", markup=False),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        tasks: dict[str, TaskID] = {_LOADING: bars.add_task(_LOADING, total=None, more="")}

        def show(what: str, done: int, total: int | None, more: str = "") -> None:
            if _LOADING in tasks and what != _LOADING:
                bars.remove_task(tasks.pop(_LOADING))
            if what not in tasks:
                tasks[what] = bars.add_task(one_line(what), total=total, more=more)
            bars.update(tasks[what], completed=done, total=total, more=more)

        yield show


_LOADING = "loading"
"""The step before the library reports one."""


class _Lines:
    """A line about the present step every so many seconds, also while it reports nothing."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.ended = threading.Event()
        self._began: dict[str, tuple[float, int]] = {_LOADING: (time.monotonic(), 0)}
        self._now: tuple[str, int, int | None, str] = (_LOADING, 0, None, "")
        threading.Thread(target=self._run, args=(seconds,), daemon=True).start()

    def show(self, what: str, done: int, total: int | None, more: str = "") -> None:
        self._began.setdefault(what, (time.monotonic(), done))  # a resumed step does not begin at 0
        self._now = (what, done, total, more)

    def _run(self, seconds: float) -> None:
        while not self.ended.wait(seconds):
            note(self.line(time.monotonic()))

    def line(self, now: float) -> str:
        """What is said of the present step at the time `now`."""
        what, done, total, more = self._now
        began, before = self._began[what]
        passed = now - began
        rate = (done - before) / passed if passed else 0.0
        if not rate:
            count = f"0 of {_short(total)}, " if total else ""
            return f"{what}: {count}{passed:,.0f} s so far"
        left = f", about {_duration((total - done) / rate)} left" if total else ""
        count = f"{_short(done)}/{'?' if total is None else _short(total)}"
        return f"{what}: {count}, {_rate(rate)}{left}{more and ', '}{more}"


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"


def _rate(speed: float) -> str:
    """How many per second; per minute where they are slow."""
    return f"{_short(speed)}/s" if speed >= 1 else f"{60 * speed:.1f}/min"


def _short(number: float) -> str:
    """A number of pictures or bytes: whole, and with a unit prefix if it has more than five digits."""
    for prefix, size in (("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {prefix}"
    return f"{number:,.0f}"
