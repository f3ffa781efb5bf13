"""Patterns that name many files: ranges such as shard-{000..010}.tar, then *, ? and [...]."""

from __future__ import annotations

import re
from glob import glob, has_magic
from pathlib import Path

from vocabkit.errors import VocabkitError

_RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
_FILES = 1_000_000
"""The most files of a pattern: a slip of the keyboard should not fill the memory."""


def matching(pattern: str) -> list[str]:
    """Return the local files and folders that a pattern names, sorted; a name without one, or that exists, is itself.

    Raises VocabkitError: a pattern without files, or with too many.
    """
    if Path(pattern).exists():
        return [pattern]
    found: list[str] = []
    for name in ranges(pattern):
        literal = not has_magic(name) or Path(name).exists()
        found += [name] if literal else sorted(glob(name, recursive=True))  # noqa: PTH207 - Path.glob: no absolute ones
    return some(found, pattern)


def ranges(pattern: str) -> list[str]:
    """Return the names that a pattern's ranges stand for. Raises VocabkitError: none, or too many."""
    names = [pattern]
    while (each := _RANGE.search(names[0])) is not None:
        first, last = int(each[1]), int(each[2])
        if not first <= last or (last - first + 1) * len(names) > _FILES:
            raise VocabkitError(f"{pattern}: {each[0]} names no files, or more than {_FILES:,}")
        width = len(each[1])
        names = [_RANGE.sub(f"{at:0{width}d}", name, count=1) for name in names for at in range(first, last + 1)]
    return names


def some(found: list[str], pattern: str) -> list[str]:
    """Return `found`. Raises VocabkitError: it is empty."""
    if not found:
        raise VocabkitError(f"{pattern}: no file matches this pattern")
    return found
