"""Captions out of files, one after the other, in memory that does not grow with the corpus.

Formats, told from the name's ending before `.gz` or `.zst`: `.parquet`; `.jsonl` and `.ndjson`, one object per line;
`.json`, one array of objects as LLaVA writes it, or one object per line; anything else is plain text, one caption per
line. In records the caption is a text under `caption` or `text`, or what `gpt` says under `conversations` (LLaVA): the
tokens that the caption loss is about. The placeholder `<image>` is no caption text and left out.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes of all files), both as on disk."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FIELDS = ("caption", "text", "conversations")
"""Where a caption is looked for, first found is taken."""
IMAGE = "<image>"
PIECE = 1 << 20
"""Bytes of plain text that are handled at a time: a longer line is cut, before a space where there is one."""
RECORD = 64 << 20
"""Longest line of a JSONL file, in bytes."""


def captions(paths: Sequence[Path], *, field: str | None = None, progress: Progress | None = None) -> Iterator[str]:
    """All captions of `paths`, files or folders of files, in order of the paths and of the names in a folder.

    Args:
        field: name of the field or column to take instead of looking for one.

    Raises:
        VocabkitError: nothing there, no such field, not UTF-8, damaged JSON, Parquet or compression.
    """
    files = _files(paths)
    total, before = sum(path.stat().st_size for path in files), 0
    for path in files:
        with reading(path), path.open("rb") as file:
            reported = 0
            for caption in _read(path, file, field):
                if progress and file.tell() > reported:
                    reported = file.tell()
                    progress(before + reported, total)
                yield caption
            before += path.stat().st_size
            if progress:
                progress(before, total)


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            if not found:
                raise VocabkitError(f"{path}: no files in this folder")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise VocabkitError(f"{path}: {'is no regular file' if path.exists() else 'no such file or folder'}")
    return files


def _read(path: Path, file: BinaryIO, field: str | None) -> Iterator[str]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    kind = (suffixes[:-1] if compression else suffixes)[-1:]
    if kind == [".parquet"]:
        if compression:
            raise VocabkitError(f"{path}: a compressed Parquet file; Parquet compresses by itself, unpack it")
        yield from _parquet(path, file, field)
        return
    stream: Any = pa.CompressedInputStream(pa.PythonFile(file, "r"), compression) if compression else file
    try:
        if kind in ([".jsonl"], [".ndjson"]):
            yield from _json_lines(path, stream, field)
        elif kind == [".json"]:
            yield from _json_array(path, stream, field)
        else:
            if field is not None:
                raise VocabkitError(f"{path}: plain text has no field {quote(field)}; leave --field out")
            yield from _text_lines(path, stream)
    except (pa.ArrowInvalid, EOFError) as error:
        raise VocabkitError(f"{path}: damaged {suffixes[-1]} file ({quote(str(error), 80)})") from error
    except OSError as error:
        if not compression or error.errno:
            raise
        raise VocabkitError(f"{path}: damaged or truncated {suffixes[-1]} file ({quote(str(error), 80)})") from error


# ---- plain text --------------------------------------------------------------------------------------------------


def _text_lines(path: Path, stream: Any) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, done = "", 0
    while True:
        chunk = stream.read(PIECE)
        try:
            rest += decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise VocabkitError(f"{path}: not UTF-8 ({error.reason}, near byte {done + error.start})") from error
        done += len(chunk)
        *lines, rest = rest.split("\n")
        yield from map(_caption, filter(None, lines))
        if not chunk:
            break
        if len(rest) >= PIECE:
            cut = rest.rfind(" ", 1) if rest.rfind(" ", 1) > 0 else len(rest)
            yield _caption(rest[:cut])
            rest = rest[cut:]
    if rest:
        yield _caption(rest)


def _caption(text: str) -> str:
    return text.replace(IMAGE, "").removesuffix("\r") if IMAGE in text or text.endswith("\r") else text


# ---- JSON --------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, stream: Any, field: str | None) -> Iterator[str]:
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(_lines(path, stream), 1):
        if not line.strip():
            continue
        try:
            record = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise VocabkitError(f"{path}: line {number} is not JSON ({quote(str(error), 80)})") from error
        yield from _texts(record, field, f"{path}: line {number}")


def _lines(path: Path, stream: Any) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(PIECE):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > RECORD:
            raise VocabkitError(f"{path}: a line of more than {RECORD >> 20} MB; expected one JSON object per line")
        yield from lines
    yield rest


def _json_array(path: Path, stream: Any, field: str | None) -> Iterator[str]:
    import ijson

    first = stream.read(PIECE)
    if not first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_lines(path, _Chained(first, stream), field)
        return
    records = enumerate(ijson.items(_Chained(first.removeprefix(b"\xef\xbb\xbf"), stream), "item"))
    while True:
        try:
            number, record = next(records)
        except StopIteration:
            return
        except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
            raise VocabkitError(f"{path}: not valid JSON ({quote(str(error).splitlines()[0], 80)})") from error
        yield from _texts(record, field, f"{path}: record {number}")


class _Chained:
    """A stream that starts with bytes that were read before."""

    def __init__(self, first: bytes, rest: Any) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int = -1) -> bytes:
        if self._first:
            taken = self._first if size < 0 else self._first[:size]
            self._first = self._first[len(taken) :]
            return taken
        return bytes(self._rest.read(None if size < 0 else size))


def _texts(record: Any, field: str | None, where: str) -> Iterator[str]:
    if not isinstance(record, Mapping):
        raise VocabkitError(f"{where} is no JSON object; expected a record with a caption")
    name = field if field is not None else next((name for name in FIELDS if name in record), None)
    if name is None or name not in record:
        wanted = quote(field) if field is not None else " or ".join(FIELDS)
        found = quote(", ".join(map(str, record)), 120)
        raise VocabkitError(f"{where} has no field {wanted}; it has {found}: choose one with --field")
    value = record[name]
    if isinstance(value, str):
        yield _caption(value)
    elif isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value):
        answers = [turn.get("value") for turn in value if turn.get("from") in ("gpt", "assistant")]
        if not all(isinstance(answer, str) for answer in answers):
            raise VocabkitError(f"{where}: a turn of {quote(name)} has no text `value`")
        yield from map(_caption, answers)
    elif value is not None:
        raise VocabkitError(f"{where}: {quote(name)} is {type(value).__name__}, expected text or conversations")


# ---- Parquet -----------------------------------------------------------------------------------------------------


def _parquet(path: Path, file: BinaryIO, field: str | None) -> Iterator[str]:
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.PythonFile(file, "r"))
        names = table.schema_arrow.names
        name = field if field is not None else next((name for name in FIELDS[:2] if name in names), None)
        if name is None or name not in names:
            wanted = quote(name or " or ".join(FIELDS[:2]))
            raise VocabkitError(f"{path}: no column {wanted}; it has {quote(', '.join(names), 120)}")
        kind = table.schema_arrow.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
            raise VocabkitError(f"{path}: column {quote(name)} is {kind}, expected text")
        for batch in table.iter_batches(batch_size=4096, columns=[name]):
            yield from (_caption(text) for text in batch.column(0).to_pylist() if text)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise VocabkitError(f"{path}: damaged Parquet file ({quote(str(error), 80)})") from error
