"""How much memory the record batches of an Arrow file say they need, without unpacking any of it.

A few kilobytes of zstd can say that they unpack to gigabytes, and a few bytes of footer can name the same batch a
thousand times. So what the flatbuffers say is added up first (arrow/format: File.fbs, Message.fbs). Arrow itself
verifies them when it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_TAIL = struct.Struct("<i6s")  # length of the footer, magic
_BLOCK = struct.Struct("<qi4xq")  # offset, bytes of metadata, bytes of body
_BUFFER = struct.Struct("<qq")  # offset in the body, bytes
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def memory_needed(content: memoryview) -> int:
    """Bytes of all buffers of all batches of an Arrow IPC file, those that are packed counted as they say they unpack.

    Stops counting when there are more buffers than the file has room for.

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
