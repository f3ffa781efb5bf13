"""Arrow files of vocabkit, reproducible and checked before they are parsed.

Shared vocabularies and snapshots are Arrow IPC files with text under `vocabkit.` keys in their schema metadata.
`vocabkit.checksum` is the sha256 of the whole file, with zeros for the digest in the two places where Arrow writes it:
the schema and its copy in the footer. So any flipped byte is found before Arrow parses the file.

Arrays are converted through their buffers: `pa.array`, `pa.scalar` and `Array.to_numpy` import pandas where it is
installed, and `Array.take` and comparisons all of pyarrow.compute, which takes longer than most commands.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading, replacing

MAGIC = b"ARROW1\0\0"
PREFIX = "vocabkit."
_BLANK = b"file-sha256:" + b"0" * 64
_DIGEST = re.compile(rb"file-sha256:[0-9a-f]{64}")
_MOST_PACKED, _MOST_BYTES = 20, 1 << 26
"""A file of n bytes may unpack to 20 n bytes plus 64 MiB: more than any real vocabulary needs."""


def write_table(path: Path, table: pa.Table, metadata: Mapping[str, str], compression: str | None) -> None:
    """Write `table_bytes` to `path`, whole or not at all. Raises VocabkitError."""
    content = table_bytes(table, metadata, compression)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def table_bytes(table: pa.Table, metadata: Mapping[str, str], compression: str | None) -> memoryview:
    """Return `table` as an Arrow file of one record batch, with `metadata` (keys without prefix), reproducibly.

    Raises VocabkitError: the content holds text that looks like the checksum.
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


def read_table(
    path: Path, format_name: str, columns: Sequence[str] | None = None, *, newest: int = 1, check: bool = True
) -> tuple[pa.Table, dict[str, str]]:
    """Open a file of `write_table`, memory-mapped: its table, and its metadata without prefix.

    Args:
        columns: the only ones to decode; those that the file lacks are left out.
        newest: version of the format, which may be any up to this one.
        check: False for files that vocabkit ships, which its tests prove right.

    Raises:
        VocabkitError: missing, damaged, not one of our files, or written by a newer vocabkit.
    """
    with reading(path), path.open("rb") as file:
        is_empty = os.fstat(file.fileno()).st_size == 0  # an empty file can't be mapped
        content = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return parse_table(content, str(path), format_name, columns, newest=newest, check=check)


def parse_table(
    content: bytes | mmap.mmap | memoryview,
    where: str,
    format_name: str,
    columns: Sequence[str] | None = None,
    *,
    newest: int = 1,
    check: bool = True,
) -> tuple[pa.Table, dict[str, str]]:
    """Open a file's bytes, as `read_table` does a file, without copying them. Errors call them `where`."""
    view = memoryview(content)
    if view[: len(MAGIC)] != MAGIC:
        raise VocabkitError(f"{where}: not an Arrow file; expected {_kind(format_name)}")
    if check:
        places = _digest_places(view)
        # a file rewritten by another program may have no checksum; then only the fingerprint is checked
        if places and {bytes(view[at : at + len(_BLANK)]) for at in places} != {_digest(view, places)}:
            raise VocabkitError(f"{where}: damaged (its bytes don't match its checksum); build it again")
    buffer = pa.py_buffer(content)
    try:
        pa.ipc.open_file(buffer)  # detects a truncated file by its footer
        stream = buffer.slice(len(MAGIC))  # batches in file order: a hostile footer can name one a thousand times
        if check:
            _refuse_bomb(where, stream)
        schema = pa.ipc.open_stream(stream).schema
        metadata = _our_metadata(where, schema, format_name, newest)
        wanted = None if columns is None else [schema.get_field_index(c) for c in columns if c in schema.names]
        table = pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(included_fields=wanted)).read_all()
        if check:
            table.validate(full=True)
    except VocabkitError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise VocabkitError(f"{where}: damaged Arrow file ({quote(str(error), 120)}); build it again") from error
    return table, metadata


def _refuse_bomb(where: str, stream: pa.Buffer) -> None:
    """Raise VocabkitError if the batches unpack to far more than the file: a few kilobytes of zstd can hold gigabytes.

    tests/robust/hostile/snapshot-explodes.arrow and snapshot-length-*.arrow are such files.
    """
    _, *messages = pa.ipc.MessageReader.open_stream(stream)  # the first is the schema
    needed = sum(map(_unpacked_size, messages))
    if needed > _MOST_PACKED * stream.size + _MOST_BYTES:
        raise VocabkitError(f"{where}: says it unpacks to {needed:,} bytes, {needed // stream.size} times its size")


def json_field(where: str, metadata: Mapping[str, str], key: str, expected: Any) -> Any:
    """Decode a metadata entry, JSON of type `expected`. Raises VocabkitError if it is missing or of another type."""
    try:
        return msgspec.json.decode(metadata.get(key, ""), type=expected)
    except (msgspec.DecodeError, RecursionError) as error:
        raise VocabkitError(
            f"{where}: metadata {PREFIX}{key} is not as expected ({quote(str(error), 160)}); build the file again"
        ) from error


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return the column as one array, without a copy if it has one chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _digest_places(content: memoryview) -> list[int]:
    return [match.start() for match in _DIGEST.finditer(content)]


def _digest(content: memoryview, places: Sequence[int]) -> bytes:
    """Return the checksum of a file in which the checksum is at `places`."""
    view, digest, done = memoryview(content), hashlib.sha256(), 0
    for place in places:
        digest.update(view[done:place])
        digest.update(_BLANK)
        done = place + len(_BLANK)
    digest.update(view[done:])
    return b"file-sha256:" + digest.hexdigest().encode()


def _kind(format_name: str) -> str:
    kinds = {"shared-vocabulary": "a shared vocabulary", "vocabulary": "the vocabulary of one tokenizer"}
    return kinds.get(format_name, f"a vocabkit {quote(format_name)}")


def _our_metadata(where: str, schema: pa.Schema, format_name: str, newest: int) -> dict[str, str]:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    ours = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    name, _, version = ours.get("format", "").partition("/")
    if name != format_name:
        found = _kind(name) if name else "an Arrow file of another program"
        raise VocabkitError(f"{where}: is {found}, expected {_kind(format_name)}")
    if version not in map(str, range(1, newest + 1)):
        raise VocabkitError(
            f"{where}: {format_name} format {quote(version)}; this vocabkit reads format {newest}. "
            "Upgrade: pip install -U vocabkit"
        )
    return ours


# ---- what a file unpacks to ----------------------------------------------------------------------------------------

_BUFFER = struct.Struct("<qq")  # offset in the body, bytes


def _unpacked_size(message: pa.Message) -> int:
    """Return the size that the buffers of a record or dictionary batch claim to unpack to; 0 if uncompressed.

    pyarrow can't be asked before it allocates, so the flatbuffer, which Arrow has verified, is read here
    (arrow/format/Message.fbs).
    """
    content, body = memoryview(message.metadata), memoryview(message.body)
    batch = _table(content, _field(content, _table(content, 0), 2))
    if message.type == "dictionary":
        batch = _table(content, _field(content, batch, 1))
    if _field(content, batch, 3) is None:  # compression
        return 0
    vector = _table(content, _field(content, batch, 2))
    (count,) = struct.unpack_from("<I", content, vector)
    places = _BUFFER.iter_unpack(content[vector + 4 : vector + 4 + count * _BUFFER.size])
    return sum(max(0, *struct.unpack_from("<q", body, start)) for start, size in places if size >= 8)


def _field(content: memoryview, table: int, number: int) -> int | None:
    """Return the offset of a field in a flatbuffer table; None if it is absent."""
    table_of_fields = table - struct.unpack_from("<i", content, table)[0]
    slot, end = 4 + 2 * number, struct.unpack_from("<H", content, table_of_fields)[0]
    offset = struct.unpack_from("<H", content, table_of_fields + slot)[0] if slot < end else 0
    return table + offset if offset else None


def _table(content: memoryview, at: int | None) -> int:
    """Follow the reference at `at` to a table or vector."""
    if at is None:
        raise struct.error("a record batch without buffers")
    return at + int(struct.unpack_from("<I", content, at)[0])


_MAX_BYTES = 2**31 - 1
"""Maximum total bytes of a binary array, because its offsets are int32."""


def binary_array(values: Sequence[bytes | None]) -> pa.Array:
    """Return `values` as (V,) binary, None as null. Raises VocabkitError: 2 GiB or more."""
    lengths = np.fromiter([-1 if value is None else len(value) for value in values], np.int64, len(values))
    offsets = _offsets(np.maximum(lengths, 0))
    buffers = [bitmap(lengths >= 0), pa.py_buffer(offsets), pa.py_buffer(b"".join(filter(None, values)))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def number_array(values: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """Return `values`, (V,) numbers, as an Arrow array, not copied; null where not `valid`, (V,) bool."""
    buffers = [None if valid is None else bitmap(valid), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def bitmap(valid: np.ndarray) -> pa.Buffer | None:
    """Return the validity buffer of an array with nulls where not `valid`, (V,) bool; None without nulls."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def validity(array: pa.Array) -> np.ndarray:
    """Return (V,) bool: False where an Arrow array is null."""
    bits_buffer = array.buffers()[0]
    if bits_buffer is None or array.null_count == 0:
        return np.ones(len(array), bool)
    bits = np.unpackbits(np.frombuffer(bits_buffer, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(bool)


def numbers(array: pa.Array, dtype: type[np.number[Any]]) -> np.ndarray:
    """Return the values as (V,) `dtype`, the array's own type; arbitrary where null. Read-only, not copied."""
    if len(array) == 0:
        return np.zeros(0, dtype)
    found = np.frombuffer(array.buffers()[1], dtype, count=len(array), offset=array.offset * np.dtype(dtype).itemsize)
    found.flags.writeable = False
    return found


def fill_null(array: pa.Array, dtype: type[np.number[Any]], null: float = -1) -> np.ndarray:
    """Return a copy of `numbers`, with `null` where the array is null. Writable, so torch doesn't warn."""
    data = numbers(array, dtype)
    return data.copy() if array.null_count == 0 else np.where(validity(array), data, np.dtype(dtype).type(null))


def token_buffers(tokens: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets, (V+1,) int32 from 0, and data, (B,) uint8, of a binary array, not copied.

    A null has length 0, unless another program put bytes under it.
    """
    _, offset_buffer, data_buffer = tokens.buffers()
    if len(tokens) == 0:
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    offsets = np.frombuffer(offset_buffer, np.int32, count=len(tokens) + 1, offset=4 * tokens.offset)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return offsets - offsets[0], data[offsets[0] : offsets[-1]]


def take(tokens: pa.Array, rows: np.ndarray) -> pa.Array:
    """Return the values of a binary array at `rows`, (R,) integers from 0 to V-1: (R,) binary."""
    offsets, data = token_buffers(tokens)
    valid = validity(tokens)[rows]
    starts = offsets[rows]
    lengths = np.where(valid, offsets[rows + 1] - starts, 0)
    new_offsets = _offsets(lengths)
    places = np.arange(new_offsets[-1], dtype=np.int32) + np.repeat(starts - new_offsets[:-1], lengths)
    buffers = [bitmap(valid), pa.py_buffer(new_offsets), pa.py_buffer(data[places])]
    return pa.Array.from_buffers(tokens.type, len(rows), buffers)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """Return where values of these lengths start and end: (V+1,) int32."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(ends) and ends[-1] > _MAX_BYTES:
        raise VocabkitError(f"{len(lengths)} tokens of {ends[-1]} bytes together; vocabkit takes up to {_MAX_BYTES}")
    return np.concatenate([[0], ends]).astype(np.int32)
