"""Writing files whole or not at all, and turning file errors into one clear line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vocabkit.errors import VocabkitError


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to disk, then rename it over `path`.

    A reader of `path` sees the old file or the new one, never a part. Raises VocabkitError if the folder is
    missing, read-only or full; the temporary file is removed.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
    except OSError as error:
        raise VocabkitError(f"{path}: can't write here ({error.strerror}); choose another folder") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise VocabkitError(f"{path}: can't write ({error.strerror or error}); nothing was changed") from error
    except BaseException:
        _remove(temporary)
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError while reading `path` into a VocabkitError."""
    try:
        yield
    except FileNotFoundError as error:
        raise VocabkitError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise VocabkitError(f"{path}: is a folder, expected a file") from error
    except OSError as error:
        raise VocabkitError(f"{path}: can't read ({error.strerror or error})") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
