"""Text, JSON and records read from files, in memory that doesn't grow with the file."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading

BLOCK = 1 << 20
"""Bytes read at a time."""
COMPRESSIONS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
"""Ending -> name of the codec in Arrow, first bytes of a file."""


def text_blocks(path: Path, file: BufferedReader, report: Callable[[int], None] | None = None) -> Iterator[str]:
    """Yield the text of `file`, UTF-8 without a byte order mark, in at least one block, which may be empty.

    Compression is detected from the first bytes.

    Args:
        path: path of `file`, for its ending and for messages.
        report: called after each block with the bytes read so far on disk.

    Raises:
        VocabkitError: not UTF-8, damaged compression, or not compressed although the name says so.
    """
    codec = compression_of(path, file)
    stream: Any = pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) if codec else file
    try:
        yield from _decoded(path, _blocks(stream, lambda: report(file.tell()) if report else None))
    except OSError as error:
        if not codec or error.errno:
            raise
        raise VocabkitError(f"{path}: damaged or truncated {codec} ({quote(str(error), 80)})") from error


def compression_of(path: Path, file: BufferedReader) -> str | None:
    """Return the name of the codec that compresses `file`; None if it isn't compressed.

    Raises VocabkitError: it isn't, although the ending of `path` says so.
    """
    start = file.peek(4)
    for ending, (codec, magic) in COMPRESSIONS.items():
        if start.startswith(magic):
            return codec
        if path.suffix.lower() == ending:
            raise VocabkitError(f"{path}: not compressed with {codec}, although its name says so")
    return None


def _blocks(stream: Any, report: Callable[[], None]) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        report()
        yield block


def _decoded(path: Path, blocks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # offset of the next block
    for block in itertools.chain(blocks, [b""]):
        kept = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = start - kept + error.start
            raise VocabkitError(f"{path}: not UTF-8 at byte {at} of its text ({error.reason}); convert it") from error
        yield text.removeprefix("\ufeff") if start == 0 else text
        start += len(block)


T = TypeVar("T")


def decode_json(path: Path, structure: type[T], what: str) -> T:
    """Decode the JSON in `path` as `structure`, a msgspec.Struct or another type that msgspec knows.

    Raises VocabkitError: missing, not UTF-8, not JSON, or not `what`, which describes it in the message.
    """
    with reading(path):
        content = path.read_bytes()
    return parse_json(content, str(path), structure, what)


def parse_json(content: bytes, where: str, structure: type[T], what: str) -> T:
    """Decode JSON bytes, as `decode_json` does a file's. Errors call them `where`."""
    try:
        if not content.isascii():
            content.decode()  # also the parts that msgspec skips, since other programs refuse such a file
        return msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=structure)
    except msgspec.ValidationError as error:
        raise VocabkitError(f"{where}: not {what} ({quote(str(error), 200)})") from error
    except UnicodeDecodeError as error:
        raise VocabkitError(f"{where}: not UTF-8 ({error.reason}); expected a JSON file") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise VocabkitError(f"{where}: not valid JSON ({quote(str(error), 200)}); is it truncated?") from error


def optional_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; {} if the file doesn't exist."""
    return decode_json(path, dict[str, Any], "a JSON object") if path.is_file() else {}


_LONGEST_RECORD = 1 << 26
"""Maximum characters of a JSON record; a longer one means a damaged or hostile file."""


def json_records(path: Path, blocks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield the records in the text `blocks` of `path` (see `text_blocks`), with their places: `record 7` or `line 7`.

    Raises VocabkitError: not JSON, truncated, or a record that is too long.
    """
    first = next(blocks)
    records = _array if first.lstrip().startswith("[") else _lines
    yield from records(path, itertools.chain([first], blocks))


def is_text(value: str) -> bool:
    """Whether `value` is valid Unicode: JSON can spell half a surrogate pair, which no text can hold."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _lines(path: Path, blocks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of a file with one record per line."""
    rest, before = "", 0
    for block in itertools.chain(blocks, ["\n"]):
        *lines, rest = (rest + block).split("\n")
        for number, line in enumerate(lines, before + 1):
            if line and not line.isspace():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _not_json(f"{path}: line {number}", error) from error
                yield f"line {number}", record
        before += len(lines)
        _check_length(f"{path}: line {before + 1}", rest)


_GAP = re.compile(r"[ \t\r\n]*([,\]]?)[ \t\r\n]*")


def _array(path: Path, blocks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of an array that is never held as a whole."""
    decode = json.JSONDecoder().raw_decode
    text, number, enough, closed = next(blocks).lstrip()[1:], 1, 0, False
    for block in itertools.chain([""], blocks, [None]):
        text += block or ""
        if block is not None and len(text) < enough:
            continue
        at = 0
        while not closed:
            gap = _GAP.match(text, at)
            assert gap is not None
            if gap[1] == "]":
                closed, at = True, gap.end()
            elif gap.end() == len(text):
                break
            elif gap[1] != ("," if number > 1 else ""):
                raise _not_json(f"{path}: record {number}", "expected a comma before it")
            else:
                try:
                    record, at = decode(text, gap.end())
                except (ValueError, RecursionError) as error:
                    if block is not None and _unfinished(error, text):
                        break
                    raise _not_json(f"{path}: record {number}", error) from error
                yield f"record {number}", record
                number += 1
        text = text[at:]
        if closed and text.strip():
            raise _not_json(f"{path}: after record {number - 1}", "more text after the end of the array")
        _check_length(f"{path}: record {number}", text)
        enough = 2 * len(text)  # a long record is not parsed again with each block
    if not closed:
        raise _not_json(f"{path}: record {number}", "the array has no end")


def _unfinished(error: Exception, text: str) -> bool:
    """Whether the error of `raw_decode` may come from cut text: a number, word or escape may be incomplete."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos > len(text) - 16
    )


def _not_json(where: str, error: Exception | str) -> VocabkitError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return VocabkitError(f"{where}: not valid JSON ({quote(reason, 80)}); is the file truncated?")


def _check_length(where: str, text: str) -> None:
    if len(text) > _LONGEST_RECORD:
        raise VocabkitError(f"{where} is longer than {_LONGEST_RECORD:,} characters; is the file damaged?")
