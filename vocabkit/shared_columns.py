"""The columns of a shared vocabulary, built from plain numbers and bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from vocabkit.vocabulary import token_buffers


def shared_table(tokens: pa.Array, has_text: np.ndarray, counts: np.ndarray, ids: Mapping[str, np.ndarray]) -> pa.Table:
    """The columns of a shared vocabulary, from numbers with -1 for null."""
    offsets, data = token_buffers(tokens)
    columns = {
        "token": pa.Array.from_buffers(pa.binary(), len(tokens), [None, pa.py_buffer(offsets), pa.py_buffer(data)]),
        "text": text_column(tokens, has_text),
        "count": nullable(counts, pa.int64()),
    }
    return pa.table({**columns, **{f"id:{name}": nullable(column, pa.int32()) for name, column in ids.items()}})


def nullable(numbers: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A copy of `numbers` as a column, -1 as null."""
    missing = numbers < 0
    bitmap = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    values = np.where(missing, 0, numbers).astype(kind.to_pandas_dtype())
    # not pa.array(values), which would import numpy.ma to see whether they are masked
    return pa.Array.from_buffers(kind, len(numbers), [bitmap, pa.py_buffer(values)])


def text_column(tokens: pa.Array, has_text: np.ndarray) -> pa.Array:
    """(R,) string: tokens as text, null where not `has_text`, (R,) bool.

    No bytes lie under a null: other readers of Arrow check them too.
    """
    offsets, data = token_buffers(tokens)
    bitmap = None
    if not has_text.all():
        bitmap = pa.py_buffer(np.packbits(has_text, bitorder="little"))
        lengths = np.diff(offsets)
        data = data[np.repeat(has_text, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths * has_text)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(tokens), [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)])


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
