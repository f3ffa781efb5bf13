"""How commands show values: lines, Rich or JSON on stdout, progress bars on stderr where it is a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from vocabkit.shared.shared_vocabulary import SharedVocabulary


def say(line: str) -> None:
    """Print a line of data. Names and paths in it can't break it."""
    from vocabkit.errors import one_line

    print(one_line(line), flush=True)


def note(line: str) -> None:
    """As `say`, on stderr."""
    from vocabkit.errors import one_line

    print(one_line(line), file=sys.stderr)


def note_broken(broken: int, pictures: int, problems: Iterable[str]) -> None:
    """On stderr: how many pictures were left out, if any, and why."""
    if broken:
        note(f"{broken:,} of {pictures:,} pictures are missing or broken and were left out:")
        for problem in problems:
            note(f"  {problem}")


def show(renderable: Any) -> None:
    """Print a Rich renderable; without colours where stdout is no terminal."""
    from rich.console import Console

    Console(highlight=False).print(renderable)


def show_json(value: Any) -> None:
    """Print any result of the library as JSON."""
    from vocabkit.report.as_json import to_json

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # JSON is, whatever the terminal speaks
    print(to_json(value), flush=True)


def shared_as_json(path: Path, shared: SharedVocabulary) -> dict[str, Any]:
    """What a command that writes a shared vocabulary says of it with --json."""
    return {
        "file": path,
        "rows": len(shared),
        "fingerprint": shared.fingerprint,
        "tokenizers": shared.tokenizers,
        "selection": shared.selection,
        "roles": shared.roles,
    }


@contextmanager
def byte_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes, once there are some. Yields the callback (bytes done, bytes in total) that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from vocabkit.errors import one_line

    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(one_line(title), visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


@contextmanager
def count_progress(unit: str | None = None) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for each thing that is counted, with how many of `unit` a second, if that is given. Yields the callback
    (what, number done, number in total if known) that moves it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    from vocabkit.errors import one_line

    class Rate(ProgressColumn):
        """How many a second."""

        def render(self, task: Task) -> Text:
            return Text("" if unit is None or task.speed is None else f"{task.speed:,.0f} {unit}/s")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate(), Remaining())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        tasks: dict[str, Any] = {}

        def move(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(one_line(what), total=total)
            progress.update(tasks[what], completed=done)

        yield move
