"""The text of a file in blocks, unpacked and decoded, in memory that does not grow with the file."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

from vocabkit.errors import VocabkitError, quote

BLOCK = 1 << 20
"""Bytes read at a time."""
COMPRESSIONS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
"""Ending -> name of the codec in Arrow, first bytes of a file."""


def text_blocks(path: Path, file: BufferedReader, report: Callable[[int], None] | None = None) -> Iterator[str]:
    """The text of `file`, UTF-8 without its byte order mark; at least one block, which may be empty.

    Compression is told from the first bytes.

    Args:
        path: where `file` was opened, for its ending and for messages.
        report: called with the bytes read so far, as on disk, after each block.

    Raises:
        VocabkitError: not UTF-8, damaged compression, or none where the name promises it.
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
    """Name of the codec that `file` is packed with, None if it is not.

    Raises VocabkitError: it is not, but the ending of `path` says so.
    """
    start = file.peek(4)
    for ending, (codec, magic) in COMPRESSIONS.items():
        if start.startswith(magic):
            return codec
        if path.suffix.lower() == ending:
            raise VocabkitError(f"{path}: not compressed with {codec}, whatever its name says")
    return None


def _blocks(stream: Any, report: Callable[[], None]) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        report()
        yield block


def _decoded(path: Path, blocks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # offset of what the decoder gets next, together with the bytes it has kept
    for block in itertools.chain(blocks, [b""]):
        kept = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = start - kept + error.start
            raise VocabkitError(f"{path}: not UTF-8 at byte {at} of its text ({error.reason}); convert it") from error
        yield text.removeprefix("\ufeff") if start == 0 else text
        start += len(block)
