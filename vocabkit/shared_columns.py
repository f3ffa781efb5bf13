"""The columns of a shared vocabulary, built from plain numbers and bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from vocabkit.arrow_values import bitmap, number_array, token_buffers


def shared_table(tokens: pa.Array, has_text: np.ndarray, counts: np.ndarray, ids: Mapping[str, np.ndarray]) -> pa.Table:
    """The columns of a shared vocabulary, from numbers with -1 for null."""
    offsets, data = token_buffers(tokens)
    columns = {
        "token": pa.Array.from_buffers(pa.binary(), len(tokens), [None, pa.py_buffer(offsets), pa.py_buffer(data)]),
        "text": text_column(tokens, has_text),
        "count": nullable(counts),
    }
    return pa.table({**columns, **{f"id:{name}": nullable(column) for name, column in ids.items()}})


def nullable(numbers: np.ndarray) -> pa.Array:
    """A copy of `numbers`, int32 or int64, as a column of their type, -1 as null."""
    return number_array(np.maximum(numbers, 0), numbers >= 0)


def text_column(tokens: pa.Array, has_text: np.ndarray) -> pa.Array:
    """(R,) string: tokens as text, null where not `has_text`, (R,) bool.

    No bytes lie under a null: other readers of Arrow check them too.
    """
    offsets, data = token_buffers(tokens)
    if not has_text.all():
        lengths = np.diff(offsets)
        data = data[np.repeat(has_text, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths * has_text)]).astype(np.int32)
    buffers = [bitmap(has_text), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(tokens), buffers)


def text_mask(tokens: pa.Array) -> np.ndarray:
    """(R,) bool: True where the bytes of a token are valid UTF-8."""
    offsets, data = token_buffers(tokens)
    beyond_ascii = np.concatenate([[0], np.cumsum(data > 0x7F, dtype=np.int32)])
    rows = np.flatnonzero(np.diff(beyond_ascii[offsets]))
    content = data.tobytes()
    spans = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
    valid = np.ones(len(tokens), bool)
    valid[rows] = [is_utf8(content[start:end]) for start, end in spans]
    return valid


def is_utf8(value: bytes) -> bool:
    """True if `value` is valid UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
