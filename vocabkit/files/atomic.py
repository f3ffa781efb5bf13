"""Atomic writes, and file errors as one clear line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vocabkit.errors import VocabkitError

try:
    import fcntl
except ImportError:  # Windows, where leftovers of a killed process stay
    fcntl = None  # type: ignore[assignment]


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Replace `path` with the file that `write` fills. See `replacing`."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8, atomically."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file for the block to create; it is then flushed to disk and renamed to `path`.

    A reader of `path` sees the old file or the new one, never a part. If the block fails, the temporary file is
    removed; leftovers of a killed process, `.vocabkit-*.tmp`, are removed by the next write in that folder. The old
    file's permissions are kept, and a symbolic link keeps its target.

    Raises VocabkitError: `path` is a folder or device, or its folder is missing, read-only or full.
    """
    check_writable(path)
    try:
        target = Path(os.path.realpath(path))
        with temporary_folder(target.parent) as folder:
            temporary = folder / "new"
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """Check that `path` can be written, before the work that leads to it. Writes nothing.

    Raises VocabkitError: `path` is a folder or device, or its folder is missing or read-only.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            found = "a folder" if target.is_dir() else "not a regular file"
            raise VocabkitError(f"{path}: is {found}; choose another name")
        _check_parent(path, target.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    if not os.access(target.parent, os.W_OK):
        raise VocabkitError(f"{path}: the folder {target.parent} is read-only; choose another place")


_MARKS: tuple[tuple[bytes, ...], ...] = (
    (b"ARROW1", b"vocabkit."),  # shared vocabularies and snapshots: keys of the schema
    (b"<!doctype html>", b'<meta name="generator" content="vocabkit">'),
    (b'{"source":', b'"map":[{"id":0,"match":'),  # token maps
    (b"source_id,match,target_ids\n",),
    (b"PAR1", b"source_id", b"target_ids"),
    (b"{", b'"validation": {', b'"caption_loss": {'),
)
"""How files that commands write begin, and what else is in their first or last block. A .npy has no room for a mark."""
_BLOCK = 2**16


def check_replaceable(path: Path) -> None:
    """Check that nothing of the user's is at `path`: only an empty file, or what a command wrote before.

    Raises VocabkitError: something else is there, which must not be lost.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with reading(path), path.open("rb") as file:
        head = file.read(_BLOCK)
        file.seek(max(0, path.stat().st_size - _BLOCK))
        both = head + file.read()
    if not any(head.startswith(start) and all(part in both for part in parts) for start, *parts in _MARKS):
        raise VocabkitError(f"{path}: exists, and vocabkit did not write it; name another output, or remove it")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` at the end of the block, whole or not at all.

    Raises VocabkitError: `path` exists, or its parent is missing, read-only or full.
    """
    if os.path.lexists(path):
        raise VocabkitError(f"{path}: already exists; choose another name")
    try:
        _check_parent(path, path.parent)
        with temporary_folder(path.parent) as temporary:
            yield temporary
            temporary.rename(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist. Raises VocabkitError: it is a file, or can't be made."""
    if path.is_file():
        raise VocabkitError(f"{path}: is a file; name a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VocabkitError(f"{path}: can't make this folder ({error.strerror})") from error


@contextmanager
def claiming(folder: Path) -> Iterator[None]:
    """Lock `folder` against other processes that claim it, and remove it if nothing was written. A killed process
    releases its lock.

    Raises VocabkitError: another process has claimed it.
    """
    lock = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if lock is not None:
            with suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise VocabkitError(
                        f"{folder}: another process is writing its results here; wait for it, or choose another folder"
                    ) from error
        try:
            yield
        finally:
            with suppress(OSError):  # not empty
                folder.rmdir()
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def reading(path: Path, *, pipe: bool = False) -> Iterator[None]:
    """Turn an OSError while reading `path` into a VocabkitError, and refuse what may never end: devices, and pipes
    unless `pipe`.
    """
    try:
        if path.exists() and not path.is_file() and not (pipe and path.is_fifo()):
            kind = "a folder, expected a file" if path.is_dir() else "a pipe or device; write its content to a file"
            raise VocabkitError(f"{path}: is {kind}")
        yield
    except FileNotFoundError as error:
        raise VocabkitError(f"{path}: no such file") from error
    except OSError as error:
        raise VocabkitError(f"{path}: can't read ({error.strerror or error})") from error


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, locked so that other processes see that it is in use."""
    for left in parent.glob(".vocabkit-*.tmp"):
        _remove_abandoned(left)
    folder = lock = None
    try:
        while lock is None:
            folder = parent / f".vocabkit-{os.urandom(8).hex()}.tmp"
            folder.mkdir()
            lock = _locked(folder)
        assert folder is not None
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a new folder; None if another process has already removed it as abandoned."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks, where nothing is removed as abandoned either
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.exists():
        return lock
    os.close(lock)
    return None


def _remove_abandoned(left: Path) -> None:
    """Remove a temporary file or folder, unless a process still has it locked."""
    with suppress(OSError):
        lock = os.open(left, os.O_RDONLY)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        finally:
            os.close(lock)


def _check_parent(path: Path, parent: Path) -> None:
    if not parent.is_dir():
        raise VocabkitError(f"{path}: no folder {parent}, so can't write here; make it, or choose another place")


def _cannot_write(path: Path, error: OSError) -> VocabkitError:
    return VocabkitError(
        f"{path}: can't write here ({error.strerror or error}); nothing was changed. Choose another place"
    )
