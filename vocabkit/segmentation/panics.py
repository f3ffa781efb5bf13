"""The library `tokenizers` prints its panics to stderr, past Python, before it raises them."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STDERR = 2
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def panics_unprinted() -> Iterator[Callable[[], None]]:
    """What goes to stderr in this block is held back until its end, and dropped if the block fails or calls what it is
    given. Nothing is held back where there is no stderr, or no room for it.
    """
    with _ONE_AT_A_TIME:
        try:
            held = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
            saved = os.dup(_STDERR)
        except OSError:
            yield lambda: None
            return
        with held:
            os.dup2(held.fileno(), _STDERR)
            try:
                yield lambda: _empty(held.fileno())
            except BaseException:
                _empty(held.fileno())
                raise
            finally:
                os.dup2(saved, _STDERR)
                os.close(saved)
                held.seek(0)
                os.write(_STDERR, held.read())


def _empty(file: int) -> None:
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
