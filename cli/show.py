"""How commands show values: Rich or JSON on stdout, progress bars on stderr where it is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def show(renderable: Any) -> None:
    """Print a Rich renderable; without colours where stdout is no terminal."""
    from rich.console import Console

    Console(highlight=False).print(renderable)


def show_json(value: Any) -> None:
    """Print any result of the library as JSON."""
    from vocabkit.report.as_json import to_json

    print(to_json(value))


@contextmanager
def byte_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes. Yields the callback (bytes done, bytes in total) that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title)
        yield lambda done, total: progress.update(task, completed=done, total=total)
