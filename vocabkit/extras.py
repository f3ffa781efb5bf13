"""Packages that a plain installation lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vocabkit.errors import VocabkitError


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Around imports. Raises VocabkitError with the command to run: `what` needs a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise VocabkitError(f"{what} needs {error.name}: pip install 'vocabkit[{extra}]'") from error
