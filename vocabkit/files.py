"""Writing files whole or not at all, and turning file errors into one clear line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vocabkit.errors import VocabkitError


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Replace `path` by what `write` puts into the file it is given. See `replacing`."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, as `write_atomically` does."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path` for the block to create; it is then flushed to disk and renamed.

    A reader of `path` sees the old file or the new one, never a part. If the block fails, the temporary file is
    removed; a process that is killed can leave one, `.vocabkit-*.tmp`. An old file's permissions are kept, and a
    symbolic link goes on pointing where it did.

    Raises VocabkitError: a folder or a device stands there, or its folder is missing, read-only or full.
    """
    check_writable(path)
    try:
        target = Path(os.path.realpath(path))
        temporary = _temporary_beside(target)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """What is known before writing, and so before the work that leads to it. Writes nothing.

    Raises VocabkitError: a folder or a device stands there, or its folder is missing or read-only.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            found = "a folder" if target.is_dir() else "no regular file"
            raise VocabkitError(f"{path}: is {found}; choose another name")
        if not target.parent.is_dir():
            raise VocabkitError(
                f"{path}: no folder {target.parent}, so can't write here; make it, or choose another place"
            )
    except OSError as error:
        raise _cannot_write(path, error) from error
    if not os.access(target.parent, os.W_OK):
        raise VocabkitError(f"{path}: the folder {target.parent} is read-only; choose another place")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` at the end of the block, whole or not at all.

    Raises VocabkitError: `path` is there already, or its parent is missing, read-only or full.
    """
    if os.path.lexists(path):
        raise VocabkitError(f"{path}: is there already; choose another name")
    temporary = _temporary_beside(path)
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError while reading `path` into a VocabkitError, and refuse what may never end: a pipe or a device."""
    try:
        if path.exists() and not path.is_file():
            kind = "a folder, expected a file" if path.is_dir() else "a pipe or device; write its content to a file"
            raise VocabkitError(f"{path}: is {kind}")
        yield
    except FileNotFoundError as error:
        raise VocabkitError(f"{path}: no such file") from error
    except OSError as error:
        raise VocabkitError(f"{path}: can't read ({error.strerror or error})") from error


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".vocabkit-{os.urandom(8).hex()}.tmp")


def _cannot_write(path: Path, error: OSError) -> VocabkitError:
    return VocabkitError(
        f"{path}: can't write here ({error.strerror or error}); nothing was changed. Choose another place"
    )
