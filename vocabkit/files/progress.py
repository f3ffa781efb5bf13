"""Progress: how the library reports long work to whoever calls it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with (what, number done, number in total or None if unknown). `what` names the step, such as "pictures"."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """The default: report nothing."""
