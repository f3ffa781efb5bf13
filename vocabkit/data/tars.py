"""Tars of pictures and captions, as WebDataset writes them: consecutive files with one name are one sample.

    000017.jpg   a picture
    000017.txt   its caption, or 000017.json: an object with `conversations`, a caption in the text column, or `caption`

The name of a sample ends at the first dot of its file name; the rest, in any case, says what it is. 000017.seg.png
is another field, not a picture of the sample. Files whose name begins with a dot belong to no sample. Nothing is
extracted, and other files are never opened, pickles among them. Source: `group_by_keys` of
https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vocabkit.data.pictures import IMAGE, Unusable
from vocabkit.data.samples import PLACEHOLDER, Picture, Sample, Source, Turn, parse_turns
from vocabkit.data.urls import LARGEST, UrlFile, is_url, last_name, open_binary, opening
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading

_LONGEST = 1 << 24
"""Bytes of a caption or conversation."""
_BLOCK = 1 << 16


def is_tar(source: str) -> bool:
    """Whether the name of a file, by path or URL, says that it is a tar, also a compressed one."""
    return last_name(source).lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"))


@dataclass(frozen=True)
class _Place:
    """The content of a file in a local tar, as the source of a picture."""

    tar: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Read it. Raises VocabkitError: can't."""
        with reading(self.tar), self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def tar_pictures(source: str) -> Iterator[Picture]:
    """Yield the pictures of a tar, by path or URL, in its order.

    A picture's key is the name of the tar and its own, NAME.tar/000017.jpg. Of a local tar only names are read, so that
    those which are not wanted cost nothing; one by URL is read whole, once.

    Raises VocabkitError: not there, compressed, damaged, truncated, or two pictures of one name.
    """
    seen = set[str]()
    for member, tar in _members(source):
        if _is_picture(member.name):
            key = _key(source, member.name)
            if key in seen:
                raise VocabkitError(f"{source}: holds {quote(member.name)} twice; write it again with one of them")
            seen.add(key)
            found = _source_of(source, member)
            if isinstance(found, UrlFile):
                yield Picture(key, _content(source, tar, member))
            else:
                yield Picture(key, found)


@dataclass
class _Parts:
    """The files of a sample, by the ending of their names."""

    name: str
    pictures: dict[str, Picture] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    """Endings of pictures that are other fields, such as seg.png."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Of txt and json."""


def tar_samples(source: str, text_column: str = "text") -> Iterator[Sample]:
    """Yield the samples of a tar, by path or URL, in its order. Their pictures are read when they are opened.

    Raises VocabkitError: as `tar_pictures`; a sample without a caption, of another form or whose files are apart, which
        is named; or a server that sends no parts of files.
    """
    for parts in _groups(source):
        try:
            sample = _sample(f"{last_name(source)}/{parts.name}", parts, text_column)
        except VocabkitError as error:
            raise VocabkitError(f"{source}: {quote(parts.name)}: {error}") from error
        if sample is not None:
            yield sample


def _groups(source: str) -> Iterator[_Parts]:
    seen = set[str]()
    parts, reads_parts = _Parts(""), not is_url(source)
    for member, tar in _members(source):
        folder, slash, file = member.name.removeprefix("./").rpartition("/")
        name, _, ending = file.partition(".")
        ending = ending.lower()
        if not name or not ending or member.isdir():
            continue
        name = folder + slash + name
        if name != parts.name:
            yield parts
            if name in seen:
                raise VocabkitError(
                    f"{source}: {quote(name)}: its files are apart; write the tar again, with --sort=name"
                )
            seen.add(name)
            parts = _Parts(name)
        if ending in parts.pictures or ending in parts.texts:
            raise VocabkitError(f"{source}: holds {quote(member.name)} twice; write it again with one of them")
        if IMAGE.fullmatch(f".{ending}"):
            found = _source_of(source, member)
            if "." in ending:
                parts.others.append(ending)
                continue
            if not reads_parts and isinstance(found, UrlFile):
                found()  # raises if this server sends no parts of files: else it would send the tar for each picture
                reads_parts = True
            parts.pictures[ending] = Picture(_key(source, member.name), found)
        elif ending in ("txt", "json") and member.isreg():
            if member.size > _LONGEST:
                raise VocabkitError(f"{source}: {quote(member.name)} has {member.size:,} bytes, too many for a caption")
            parts.texts[ending] = _content(source, tar, member)
    yield parts


def _sample(name: str, parts: _Parts, text_column: str) -> Sample | None:
    """None for files that are no sample, such as a README.txt."""
    try:
        record = msgspec.json.decode(parts.texts["json"], type=dict[str, Any]) if "json" in parts.texts else {}
        caption = parts.texts["txt"].decode("utf-8-sig").strip() if "txt" in parts.texts else None
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise VocabkitError(f"its text is damaged ({quote(str(error), 120)})") from error
    found = (record.get(text_column), caption, record.get("caption"), record.get("conversations"))
    said = [each for each in found if each is not None]
    text = next((each for each in said if not isinstance(each, str) or each.strip()), said[0] if said else None)
    if not parts.pictures and parts.others:
        others = quote(", ".join(parts.others))
        raise VocabkitError(f"no picture: its name ends at the first dot, and {others} is no format; rename its files")
    if not parts.pictures and not isinstance(text, list):
        return None
    if text is None:
        raise VocabkitError(f"no caption: no .txt, and no {text_column}, caption or conversations in a .json")
    images = tuple(parts.pictures.values())
    turns = (Turn("\n".join([PLACEHOLDER] * len(images)), text),) if isinstance(text, str) else parse_turns(text)
    return Sample(_text(name), images, turns, record)


def _members(source: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yield each file of a tar, and the tar, from which it can be read; a remote one is only read forwards."""
    if not last_name(source).lower().endswith(".tar"):
        raise VocabkitError(f"{source}: is compressed; unpack it to a plain .tar first")
    number, last = 0, -1
    mode: Any = "r|" if is_url(source) else "r:"
    with (
        open_binary(source) as file,
        _parsing(source, lambda: f"after {number:,} files"),
        tarfile.open(fileobj=file, mode=mode, tarinfo=_Header) as tar,  # never extracted, so `filter` does not matter
    ):
        while (member := tar.next()) is not None:
            if member.offset <= last or member.size < 0:
                raise tarfile.ReadError("a header that points backwards")
            number, last = number + 1, member.offset
            tar.members.clear()  # type: ignore[attr-defined] # else it keeps all of them
            yield member, tar
        while block := tar.fileobj.read(_BLOCK):
            if any(block):
                raise VocabkitError(
                    f"{source}: goes on after its end, as tars joined by cat do; join them with tar --concatenate"
                )


class _Header(tarfile.TarInfo):
    """A header that is whole: tarfile takes a damaged one, or a missing end, for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        """Read the next one. Raises EOFHeaderError: the end, as it is marked; ReadError: damaged or truncated."""
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where a file or the end mark should be") from error


@contextmanager
def _parsing(source: str, place: Callable[[], str]) -> Iterator[None]:
    """Raise what tarfile raises on damaged files as a VocabkitError that tells the place."""
    try:
        yield
    except VocabkitError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        why = quote(str(error) or type(error).__name__, 80)
        raise VocabkitError(f"{source}: not a plain tar, or damaged or truncated {place()} ({why})") from error


def _content(source: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Read the last file that `_members` gave."""
    with opening(source), _parsing(source, lambda: f"at {quote(member.name)}"):
        file = tar.extractfile(member)
        return b"" if file is None else file.read()


def _is_picture(name: str) -> bool:
    file = name.rpartition("/")[2]
    return IMAGE.fullmatch(file) is not None and not file.startswith("._")  # macOS keeps attributes there


def _source_of(source: str, member: tarfile.TarInfo) -> Source:
    if not member.isreg() or member.issparse():
        kind = "a sparse file" if member.issparse() else "a link" if member.issym() or member.islnk() else "not a file"
        return Unusable(f"{_key(source, member.name)}: is {kind} in the tar; put its content there")
    if member.size > LARGEST:
        return Unusable(f"{_key(source, member.name)}: has {member.size:,} bytes, too many for a picture")
    if is_url(source):
        return UrlFile(source, member.offset_data, member.offset_data + member.size)
    return _Place(Path(source), member.offset_data, member.size)


def _key(source: str, name: str) -> str:
    return f"{_text(last_name(source))}/{_text(name.removeprefix('./'))}"


def _text(name: str) -> str:
    """A name with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
