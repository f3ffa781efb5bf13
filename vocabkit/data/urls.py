"""Files by URL, as fsspec opens them: s3, gs, hf, https and others; and patterns that name many files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading

LARGEST = 1 << 29
"""Bytes of a picture's file: a larger one is not read into memory."""
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory")
"""Stores in which a file appears whole or not at all."""
READING = "can't read"
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
_FILES = 1_000_000
"""The most files of a pattern: a slip of the keyboard should not fill the memory."""


def is_url(source: str) -> bool:
    """Whether `source` is a URL, such as s3://bucket/folder."""
    return _URL.match(source) is not None


def check_url(url: str) -> None:
    """Raise VocabkitError: a package for this kind of URL is missing, or there is no such kind."""
    with opening(url):
        _system(url)


def last_name(source: str) -> str:
    """Return the name of a file, by path or URL."""
    return re.split(r"[?#]", source)[0].rstrip("/").rpartition("/")[2] if is_url(source) else Path(source).name


@dataclass(frozen=True)
class UrlFile:
    """The content of a file by URL, as the source of a picture."""

    url: str
    start: int | None = None
    """The first byte and, in `end`, the one after the last; by default all."""
    end: int | None = None

    def __call__(self) -> bytes:
        """Read it. Raises VocabkitError: can't, or too large for a picture."""
        with opening(self.url):
            system, path = _system(self.url)
            if self.start is not None:
                return bytes(system.cat_file(path, start=self.start, end=self.end))
            with system.open(path, "rb") as file:
                content = bytes(file.read(LARGEST + 1))
        if len(content) > LARGEST:
            raise VocabkitError(f"{self.url}: has more than {LARGEST:,} bytes, too many for a picture")
        return content


@contextmanager
def open_binary(source: str) -> Iterator[IO[bytes]]:
    """Open a file by path or URL for reading from its start. Raises VocabkitError: can't, also later."""
    if not is_url(source):
        with reading(Path(source)), Path(source).open("rb") as local:
            yield local
        return
    with opening(source):
        system, path = _system(source)
        with system.open(path, "rb") as file:
            yield file


def files_below(url: str) -> list[str]:
    """Return the URLs of all files in a folder and those below it, sorted. Raises VocabkitError: can't, or none."""
    with opening(url):
        system, path = _system(url)
        found = [str(system.unstrip_protocol(each)) for each in sorted(system.find(path))]
    if not found:
        raise VocabkitError(f"{url}: not found: no file, and no folder with files")
    return found


def each_file(source: str) -> list[str]:
    """Return the files that a pattern names: ranges such as shard-{000..010}.tar, then *, ? and [...].

    A name without them, or that exists as it is, is itself.

    Raises VocabkitError: a pattern without files, or with too many.
    """
    if not is_url(source) and Path(source).exists():
        return [source]
    found: list[str] = []
    for name in _ranges(source):
        found += _matching(name) if has_magic(name) and not name.startswith("http") else [name]  # ? begins a query
    if not found:
        raise VocabkitError(f"{source}: no file matches this pattern")
    return found


def _ranges(source: str) -> list[str]:
    names = [source]
    while (each := _RANGE.search(names[0])) is not None:
        first, last = int(each[1]), int(each[2])
        if not first <= last or (last - first + 1) * len(names) > _FILES:
            raise VocabkitError(f"{source}: {each[0]} names no files, or more than {_FILES:,}")
        width = len(each[1])
        names = [_RANGE.sub(f"{at:0{width}d}", name, count=1) for name in names for at in range(first, last + 1)]
    return names


def _matching(pattern: str) -> list[str]:
    if not is_url(pattern):
        return sorted(glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    with opening(pattern):
        system, path = _system(pattern)
        return [str(system.unstrip_protocol(each)) for each in sorted(system.glob(path))]


class RemoteFolder:
    """A folder of an object store, which files are written to whole: its way of an atomic write.

    Raises VocabkitError: another kind of URL, or a package for it is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        kind, _, place = url.partition("://")
        kind = kind.lower()
        if kind in ("file", "local"):
            raise VocabkitError(f"{url}: give the path itself, {place}")
        if kind not in _WHOLE:
            raise VocabkitError(
                f"{url}: files can't be written whole to {kind}://; write to a folder, or to {', '.join(_WHOLE[:7:2])}"
            )
        if not place.strip("/"):
            raise VocabkitError(f"{url}: names no bucket; give one and a folder in it, such as {kind}://bucket/seen")
        with opening(url):
            self._system, self._path = _system(self.url, use_listings_cache=False)  # others write here, too

    def names(self) -> list[str]:
        """Return the names of its files, sorted; none if there is no such folder."""
        with opening(self.url):
            try:
                found = self._system.ls(self._path, detail=False)
            except FileNotFoundError:
                found = []
        return sorted(last_name(str(each)) for each in found)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        with opening(self.url):
            return bool(self._system.exists(f"{self._path}/{name}"))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a file, or its bytes from `start` to before `end`. Raises VocabkitError: can't."""
        with opening(f"{self.url}/{name}"):
            return bytes(self._system.cat_file(f"{self._path}/{name}", start=start, end=end))

    def write(self, name: str, content: bytes) -> None:
        """Write a file. Raises VocabkitError: can't."""
        with opening(f"{self.url}/{name}", "can't write here"):
            self._system.pipe_file(f"{self._path}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises VocabkitError: can't."""
        with opening(f"{self.url}/{name}", "can't remove it"):
            if self._system.exists(f"{self._path}/{name}"):
                self._system.rm_file(f"{self._path}/{name}")


def _system(url: str, **settings: Any) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Keys and other settings are those of its own library."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url, **settings)
    return system, path


@contextmanager
def opening(source: str, fails: str = READING) -> Iterator[None]:
    """Raise what a file system raises as a VocabkitError that names `source`, and says what `fails`."""
    try:
        yield
    except (VocabkitError, MemoryError):
        raise
    except ImportError as error:  # it names the package to install
        raise VocabkitError(f"{source}: {quote(str(error), 160)}") from error
    except Exception as error:  # of the libraries of each store
        if isinstance(error, FileNotFoundError) and fails == READING:
            raise VocabkitError(f"{source}: no such file") from error
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise VocabkitError(f"{source}: {fails} ({quote(reason, 160)})") from error
