"""How commands show values: lines, Rich or JSON on stdout, progress bars on stderr where it is a terminal."""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import TaskID

    from vocabkit.files.progress import Progress
    from vocabkit.shared.shared_vocabulary import SharedVocabulary


def say(line: str) -> None:
    """Print a line of data; control characters in names and paths are escaped."""
    from vocabkit.errors import one_line

    print(one_line(line), flush=True)


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def note(line: str) -> None:
    """Print a line on stderr, as `say` does on stdout."""
    from vocabkit.errors import one_line

    print(one_line(line), file=sys.stderr)


@contextmanager
def showing_warnings() -> Iterator[None]:
    """Show each warning of the library as a note, once."""
    from vocabkit.errors import VocabkitWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", VocabkitWarning)
        others, told = warnings.showwarning, set[str]()

        def show_once(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, VocabkitWarning):
                others(message, category, *where)
            elif str(message) not in told:
                told.add(str(message))
                note(f"note: {message}")

        warnings.showwarning = show_once  # type: ignore[assignment]
        yield


def note_broken(broken: int, pictures: int, problems: Iterable[str]) -> None:
    """Say on stderr how many pictures were left out, if any, and why."""
    if broken:
        note(f"{broken:,} of {pictures:,} pictures are missing or broken and were left out:")
        for problem in problems:
            note(f"  {problem}")


def show(renderable: Any) -> None:
    """Print a Rich renderable, in colour only on a terminal."""
    from rich.console import Console

    Console(highlight=False).print(renderable)


def show_json(value: Any) -> None:
    """Print any result of the library as JSON."""
    from vocabkit.report.as_json import to_json

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8, whatever the terminal's encoding
    print(to_json(value), flush=True)


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


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show on stderr how far each reported step is: a bar on a terminal, else a line every half minute."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    from vocabkit.errors import one_line

    class Count(ProgressColumn):
        """Number done, and how many per second."""

        def render(self, task: Task) -> Text:
            total = "?" if task.total is None else _short(task.total)
            rate = "" if task.speed is None else f", {_short(task.speed)}/s"
            return Text(f"{_short(task.completed)}/{total}{rate}")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), Count(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def move(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(one_line(what), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield move


def _lines(seconds: float = 30.0) -> Progress:
    """Report each step by a line every so many seconds."""
    first: dict[str, tuple[float, int]] = {}
    shown: dict[str, float] = {}

    def move(what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        began, before = first.setdefault(what, (now, done))  # a resumed step does not begin at 0
        if now - shown.setdefault(what, now) < seconds:
            return
        shown[what] = now
        rate = (done - before) / (now - began)
        left = f", about {(total - done) / rate / 60:,.0f} min left" if total and rate else ""
        note(f"{what}: {_short(done)}/{'?' if total is None else _short(total)}, {_short(rate)}/s{left}")

    return move


def _short(number: float) -> str:
    """A number of pictures or bytes: whole, and with a unit prefix if it has more than five digits."""
    for prefix, size in (("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {prefix}"
    return f"{number:,.0f}"
