"""The one exception type and the one warning that users meet, and helpers for their messages."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class VocabkitError(ValueError):
    """Bad input. The message names the file or argument, what is wrong and what to do, on one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class VocabkitWarning(UserWarning):
    """What a user should know although the work continues. The command line shows it as a note on stderr."""


def warn(message: str) -> None:
    """Issue a VocabkitWarning for the caller of the function that calls this."""
    warnings.warn(message, VocabkitWarning, stacklevel=3)


def one_line(text: str) -> str:
    """Escape line breaks and control characters, so that no file name or content can break the line or control the
    terminal.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quote(text: str, limit: int = 60) -> str:
    """Quote text of an untrusted file, escaped and shortened to fit a one-line message."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return ascii(shown) if not shown.isprintable() else repr(shown)


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 row`, `1,200 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a question with the names most like `name`, or `otherwise` if none is close."""
    near = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Wrap imports of optional packages: raise VocabkitError with the pip command if `what` lacks one."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise VocabkitError(f"{what} needs {error.name}: pip install 'vocabkit[{extra}]'") from error
