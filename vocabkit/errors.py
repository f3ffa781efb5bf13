"""The one exception type users meet, and what its messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class VocabkitError(ValueError):
    """Bad input. The message names the file or argument, what is wrong and what to do, on one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """`text` with line breaks and control characters escaped: whatever a file's name or content brings along, it
    can't break the line or talk to the terminal.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quote(text: str, limit: int = 60) -> str:
    """`text` from an untrusted file, escaped and shortened so that a message stays on one readable line."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return ascii(shown) if not shown.isprintable() else repr(shown)


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A question with the names most like `name`; `otherwise` if none is like it."""
    near = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Wrap imports of optional packages: raise VocabkitError with the pip command if `what` lacks one."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise VocabkitError(f"{what} needs {error.name}: pip install 'vocabkit[{extra}]'") from error
