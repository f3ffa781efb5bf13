"""Shared vocabularies as other Arrow programs would write them, and their fingerprint as docs/formats.md defines it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vocabkit.shared.shared_vocabulary import SharedVocabulary


def metadata_of(content: bytes) -> dict[str, str]:
    """The schema metadata of an Arrow file, as it stands there."""
    return {key.decode(): value.decode() for key, value in pa.ipc.open_file(content).schema.metadata.items()}


def rewritten(content: bytes, changes: Mapping[str, str] | None = None, **options: Any) -> bytes:
    """The same table written by Arrow itself, without the checksum.

    Args:
        changes: metadata to add or replace.
        options: `compression`, or `rows_per_batch` for several record batches.
    """
    metadata = {**metadata_of(content), **(changes or {})}
    del metadata["vocabkit.checksum"]
    return arrow_file(pa.ipc.open_file(content).read_all(), metadata, **options)


def arrow_file(
    table: pa.Table, metadata: Mapping[str, str], compression: str | None = None, rows_per_batch: int | None = None
) -> bytes:
    """An Arrow file with this metadata."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(dict(metadata))
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return bytes(sink.getvalue())


def forged(shared: SharedVocabulary, table: pa.Table | None = None, **records: Any) -> bytes:
    """A file with other columns or records than those of `shared`, and a fingerprint that fits them."""
    table = shared.table if table is None else table
    metadata = metadata_of(shared.to_bytes())
    values = {key: json.loads(metadata[f"vocabkit.{key}"]) for key in ("tokenizers", "selection", "roles")} | records
    changes = {f"vocabkit.{key}": json.dumps(value) for key, value in values.items()}
    changes["vocabkit.fingerprint"] = documented_fingerprint(table, **values)
    del metadata["vocabkit.checksum"]
    return arrow_file(table, {**metadata, **changes})


def documented_fingerprint(table: pa.Table, **records: Any) -> str:
    """The fingerprint worked out from docs/formats.md."""
    records["rows"] = table.num_rows
    columns = [(name, column.to_pylist()) for name, column in zip(table.column_names, table.columns, strict=True)]
    tokens = [token or b"" for name, values in columns if name == "token" for token in values]
    counts = [count for name, values in columns if name == "count" for count in values]
    of_words = any(pa.types.is_list(field.type) for field in table.schema)
    ids: list[int | None] = []
    for name, values in columns:
        if name.startswith("id:") and of_words:
            ids += [len(spelling or ()) for spelling in values]
            ids += [token_id for spelling in values for token_id in spelling or ()]
        elif name.startswith("id:"):
            ids += values
    parts = [
        b"vocabkit shared vocabulary 2\n" if of_words else b"vocabkit shared vocabulary 1\n",
        json.dumps(records, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
        *(struct.pack("<i", len(token)) for token in tokens),
        *tokens,
        *(struct.pack("<q", -1 if count is None else count) for count in counts),
        *(struct.pack("<i", -1 if token_id is None else token_id) for token_id in ids),
    ]
    return "sha256:" + hashlib.sha256(b"".join(parts)).hexdigest()
