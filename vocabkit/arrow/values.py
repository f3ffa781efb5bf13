"""Conversion of Arrow arrays to and from bytes and numpy arrays, through their buffers.

`pa.array`, `pa.scalar` and `Array.to_numpy` import pandas where it is installed, and `Array.take` and comparisons all
of pyarrow.compute: each takes longer than most commands. What is here imports neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vocabkit.errors import VocabkitError

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
