"""Files by URL, as fsspec opens them: s3, gs, hf, https and others; and patterns that name many files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import has_magic
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.patterns import matching, ranges, some

LARGEST = 1 << 29
"""Bytes of a picture's file: a larger one is not read into memory."""
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf", "memory")
"""Stores in which a file appears whole or not at all."""
READING = "can't read"
_SCHEME = "[a-zA-Z][a-zA-Z0-9+.-]*"
_CHAIN = re.compile(rf"((?:{_SCHEME}::)*)({_SCHEME}://.*?)((?:::.*)?)", re.DOTALL)
_WEB = re.compile("(?:^|::)https?://", re.IGNORECASE)
_IN_PATTERNS = re.compile(r"[*?[{]")


def is_url(source: str) -> bool:
    """Whether `source` is a URL, such as s3://bucket/folder, or a chain of fsspec: zip://a.png::file:///b.zip."""
    return _CHAIN.fullmatch(source) is not None


def _links(url: str) -> tuple[str, str, str]:
    """The parts of a chain before, at and after the link that names the file: simplecache::, zip://a.png, ::s3://b."""
    links = _CHAIN.fullmatch(url)
    assert links is not None
    return links[1], links[2], links[3]


def _is_web(url: str) -> bool:
    """Whether a file's own link is http: only such URLs end in queries and fragments, and list no files."""
    return _links(url)[1].lower().startswith(("http://", "https://"))


def _url(source: str, system: Any, path: str) -> str:
    """The URL of a `path` in the file system of `source`, with the rest of its chain."""
    before, _, after = _links(source)
    return f"{before}{system.unstrip_protocol(path)}{after}"


def check_url(url: str) -> None:
    """Raise VocabkitError: a package for this kind of URL is missing, or there is no such kind."""
    with opening(url):
        _system(url)


def last_name(source: str) -> str:
    """Return the name of a file, by path or URL."""
    if not is_url(source):
        return Path(source).name
    link = _links(source)[1]
    return (re.split("[?#]", link)[0] if _is_web(source) else link).rstrip("/").rpartition("/")[2]


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
                return self._whole_range(bytes(system.cat_file(path, start=self.start, end=self.end)))
            with system.open(path, "rb") as file:
                content = bytes(file.read(LARGEST + 1))
        if len(content) > LARGEST:
            raise VocabkitError(f"{self.url}: has more than {LARGEST:,} bytes, too many for a picture")
        return content

    def _whole_range(self, content: bytes) -> bytes:
        if self.start is None or self.end is None or len(content) == self.end - self.start:
            return content
        wanted = f"{self.url}: {len(content):,} bytes came where {self.end - self.start:,} were asked for"
        if len(content) > self.end - self.start:
            raise VocabkitError(f"{wanted}: this server sends no parts of files; download it")
        raise VocabkitError(f"{wanted}: is the file truncated, or has it changed?")


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
        found = [_url(url, system, each) for each in sorted(system.find(path))]
        if not found and _is_web(url):
            system.info(path)  # raises if there is no server: `find` does not
    if not found:
        raise VocabkitError(f"{url}: not found: no file, and no folder with files")
    return found


def each_file(source: str) -> list[str]:
    """Return the files that a pattern names: ranges such as shard-{000..010}.tar, then *, ? and [...].

    A name without them, or that exists as it is, is itself.

    Raises VocabkitError: a pattern without files, or with too many.
    """
    if not is_url(source):
        return matching(source)
    if _IN_PATTERNS.search(source) and not _is_web(source) and _exists(source):
        return [source]
    return some([file for url in ranges(source) for file in _matching(url)], source)


def _matching(url: str) -> list[str]:
    if not has_magic(_links(url)[1]) or _is_web(url) or _exists(url):
        return [url]
    with opening(url):
        system, path = _system(url)
        return [_url(url, system, each) for each in sorted(system.glob(path))]


def _exists(url: str) -> bool:
    with opening(url):
        system, path = _system(url)
        return bool(system.exists(path))


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

    def check_writable(self) -> None:
        """Write an empty file and remove it: nothing else shows whether a store has the bucket and accepts the keys.

        Raises VocabkitError: can't.
        """
        probe = f"{self._path}/.vocabkit-{os.urandom(8).hex()}.tmp"
        with opening(self.url, "can't write here"):
            self._system.pipe_file(probe, b"")
        with suppress(Exception):  # a store that lets nobody remove anything
            self._system.rm_file(probe)

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
        cause: BaseException = error
        if isinstance(error, FileNotFoundError) and fails == READING:
            if _WEB.search(source) and error.__cause__ is not None:  # fsspec calls any failure of http a missing file
                cause = error.__cause__
            if isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) == HTTPStatus.NOT_FOUND:
                raise VocabkitError(f"{source}: no such file") from error
        reason = (str(cause).splitlines() or [""])[0] or type(cause).__name__
        raise VocabkitError(f"{source}: {fails} ({quote(reason, 160)})") from error
