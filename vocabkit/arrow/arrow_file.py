"""Arrow files of vocabkit: reproducible, and checked before they are parsed.

Shared vocabularies and snapshots are Arrow IPC files whose schema metadata holds text under keys that start with
`vocabkit.`. One of them, `vocabkit.checksum`, is the sha256 of all bytes of the file, with zeros for the digest itself
in the two places where Arrow writes it: the schema and its copy in the footer. Any flipped byte is found before Arrow
parses the file.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading, replacing

MAGIC = b"ARROW1\0\0"
PREFIX = "vocabkit."
_BLANK = b"file-sha256:" + b"0" * 64
_DIGEST = re.compile(rb"file-sha256:[0-9a-f]{64}")
_MOST_PACKED, _MOST_BYTES = 20, 1 << 26
"""A file of n bytes may unpack to 20 n bytes and 64 MiB: more than any vocabulary does, and no bomb goes off."""


def write_table(path: Path, table: pa.Table, metadata: Mapping[str, str], compression: str | None) -> None:
    """Write `table_bytes` to `path`, whole or not at all. Raises VocabkitError."""
    content = table_bytes(table, metadata, compression)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def table_bytes(table: pa.Table, metadata: Mapping[str, str], compression: str | None) -> memoryview:
    """An Arrow file of `table` as one record batch, with `metadata` (keys without prefix). Same input, same bytes.

    Raises VocabkitError: the content holds something that looks like the checksum.
    """
    entries = {PREFIX + key: value for key, value in sorted({**metadata, "checksum": _BLANK.decode()}.items())}
    table = table.combine_chunks().replace_schema_metadata(entries)
    sink = io.BytesIO()
    codec = pa.Codec(compression, compression_level=19) if compression else None
    with pa.ipc.new_file(
        pa.PythonFile(sink, "w"), table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)
    ) as writer:
        writer.write_table(table)
    content = sink.getbuffer()
    places = _digest_places(content)
    if len(places) != 2:
        raise VocabkitError(
            "a token or name reads `file-sha256:` and 64 digits, like the file's checksum; leave it out"
        )
    digest = _digest(content, places)
    for place in places:
        content[place : place + len(digest)] = digest
    return content


def read_table(path: Path, format_name: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, str]]:
    """Open a file of `write_table` memory-mapped: its table and its metadata without prefix.

    Only `columns` are decoded, if given; a column that the file lacks is left out.

    Raises:
        VocabkitError: missing, damaged, not one of our files, or written by a newer vocabkit.
    """
    with reading(path), path.open("rb") as file:
        is_empty = os.fstat(file.fileno()).st_size == 0  # which can't be mapped
        content = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return parse_table(content, str(path), format_name, columns)


def parse_table(
    content: bytes | mmap.mmap | memoryview, where: str, format_name: str, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    """`read_table` of a file's bytes, without copying them. Errors name them `where`."""
    view = memoryview(content)
    if view[: len(MAGIC)] != MAGIC:
        raise VocabkitError(f"{where}: not an Arrow file; expected a vocabkit {format_name}")
    places = _digest_places(view)
    # a file rewritten by another program may have no checksum: the fingerprint alone decides
    if places and {bytes(view[at : at + len(_BLANK)]) for at in places} != {_digest(view, places)}:
        raise VocabkitError(f"{where}: damaged (its bytes don't match its checksum); build it again")
    buffer = pa.py_buffer(content)
    try:
        if (needed := memory_needed(view)) > _MOST_PACKED * len(view) + _MOST_BYTES:
            raise VocabkitError(f"{where}: says it unpacks to {needed:,} bytes, {needed // len(view)} times its size")
        schema = pa.ipc.open_file(buffer).schema
        metadata = _our_metadata(where, schema, format_name)
        wanted = None if columns is None else [schema.get_field_index(c) for c in columns if c in schema.names]
        table = pa.ipc.open_file(buffer, options=pa.ipc.IpcReadOptions(included_fields=wanted)).read_all()
        table.validate(full=True)
    except VocabkitError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise VocabkitError(f"{where}: damaged Arrow file ({quote(str(error), 120)}); build it again") from error
    return table, metadata


def json_field(where: str, metadata: Mapping[str, str], key: str, expected: Any) -> Any:
    """A metadata entry, JSON of the type `expected`. Raises VocabkitError if it is missing or anything else."""
    try:
        return msgspec.json.decode(metadata.get(key, ""), type=expected)
    except (msgspec.DecodeError, RecursionError) as error:
        raise VocabkitError(
            f"{where}: metadata {PREFIX}{key} is not as expected ({quote(str(error), 160)}); build the file again"
        ) from error


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, without a copy if it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _digest_places(content: memoryview) -> list[int]:
    return [match.start() for match in _DIGEST.finditer(content)]


def _digest(content: memoryview, places: Sequence[int]) -> bytes:
    """The checksum of a file whose checksum stands in `places`."""
    view, digest, done = memoryview(content), hashlib.sha256(), 0
    for place in places:
        digest.update(view[done:place])
        digest.update(_BLANK)
        done = place + len(_BLANK)
    digest.update(view[done:])
    return b"file-sha256:" + digest.hexdigest().encode()


def _our_metadata(where: str, schema: pa.Schema, format_name: str) -> dict[str, str]:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    ours = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    name, _, version = ours.get("format", "").partition("/")
    if name != format_name:
        found = f"a vocabkit {quote(name)}" if name else "an Arrow file of another program"
        raise VocabkitError(f"{where}: {found}, expected a vocabkit {format_name}")
    if version != "1":
        raise VocabkitError(
            f"{where}: {format_name} format {quote(version)}; this vocabkit reads format 1. "
            "Upgrade: pip install -U vocabkit"
        )
    return ours


# ---- memory that a file asks for -------------------------------------------------------------------------------------


_TAIL = struct.Struct("<i6s")  # length of the footer, magic
_BLOCK = struct.Struct("<qi4xq")  # offset, bytes of metadata, bytes of body
_BUFFER = struct.Struct("<qq")  # offset in the body, bytes
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def memory_needed(content: memoryview) -> int:
    """Bytes of all buffers of all batches of an Arrow IPC file, compressed ones at their declared unpacked size.

    A few kilobytes of zstd can claim to unpack to gigabytes, and a few bytes of footer can name one batch a thousand
    times. pyarrow has no way to ask before it allocates, so the flatbuffers are read here (arrow/format: File.fbs,
    Message.fbs). Counting stops when there are more buffers than the file has room for.

    Raises struct.error: not such a file.
    """
    length, _ = _TAIL.unpack_from(content, len(content) - _TAIL.size)
    footer = _root(content, len(content) - _TAIL.size - length)
    total, seen = 0, 0
    for field in (2, 3):  # dictionaries, recordBatches
        for offset, metadata, body in footer.structs(field, _BLOCK):
            for size in _buffer_sizes(content, offset, metadata, body):
                total, seen = total + size, seen + _BUFFER.size
                if seen > len(content):
                    raise struct.error("the same buffers again and again")
    return total


def _buffer_sizes(content: memoryview, offset: int, metadata: int, body: int) -> Iterator[int]:
    (continuation,) = _unpack("<i", content, offset)
    message = _root(content, offset + (8 if continuation == -1 else 4))
    batch = message.table(2)
    if batch is not None and message.number(1, "<B") == _DICTIONARY_BATCH:
        batch = batch.table(1)
    elif message.number(1, "<B") != _RECORD_BATCH:
        return
    if batch is None:
        return
    packed = batch.table(3) is not None
    for start, size in batch.structs(2, _BUFFER):
        unpacked = _unpack("<q", content, offset + metadata + start)[0] if packed and size >= 8 else -1
        yield size if unpacked == -1 else unpacked if unpacked >= 0 else 1 << 62


@dataclass(frozen=True)
class _Table:
    """A table of a flatbuffer, at a place in the file."""

    content: memoryview
    at: int

    def _place(self, field: int) -> int | None:
        table = self.at - int(_unpack("<i", self.content, self.at)[0])
        slot = 4 + 2 * field
        if slot + 2 > _unpack("<H", self.content, table)[0]:
            return None
        (offset,) = _unpack("<H", self.content, table + slot)
        return self.at + int(offset) if offset else None

    def number(self, field: int, code: str) -> int:
        place = self._place(field)
        return 0 if place is None else int(_unpack(code, self.content, place)[0])

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return None if place is None else _root(self.content, place)

    def structs(self, field: int, kind: struct.Struct) -> Iterator[tuple[int, ...]]:
        vector = self.table(field)
        if vector is None:
            return
        (count,) = _unpack("<I", self.content, vector.at)
        start = vector.at + 4
        yield from kind.iter_unpack(_slice(self.content, start, count * kind.size))


def _root(content: memoryview, at: int) -> _Table:
    """What the reference at this place leads to."""
    return _Table(content, at + int(_unpack("<I", content, at)[0]))


def _unpack(code: str, content: memoryview, at: int) -> tuple[int, ...]:
    return struct.unpack(code, _slice(content, at, struct.calcsize(code)))


def _slice(content: memoryview, start: int, size: int) -> memoryview:
    if not 0 <= start <= len(content) - size:
        raise struct.error(f"{size} bytes at {start} are beyond the file")
    return content[start : start + size]
