"""The envelope of vocabkit's Arrow files: written whole, reproducible, and checked before they are parsed.

Both kinds of file (shared vocabulary, snapshot) are Arrow IPC files whose schema metadata carries text under keys
that start with `vocabkit.`. One of them, `vocabkit.checksum`, is the sha256 of all bytes of the file with the
digest itself written as zeros (it stands in the file twice). So any flipped byte is found before Arrow looks at the file.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading, write_atomically

MAGIC = b"ARROW1\0\0"
PREFIX = "vocabkit."
_BLANK = b"file-sha256:" + b"0" * 64
_DIGEST = re.compile(rb"file-sha256:[0-9a-f]{64}")


def write_table(path: Path, table: pa.Table, metadata: Mapping[str, str], compression: str | None) -> None:
    """Write `table` as one record batch with `metadata` (keys without prefix). Same input, same bytes."""
    entries = {PREFIX + key: value for key, value in sorted({**metadata, "checksum": _BLANK.decode()}.items())}
    table = table.combine_chunks().replace_schema_metadata(entries)
    sink = pa.BufferOutputStream()
    codec = pa.Codec(compression, compression_level=19) if compression else None
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    content = bytearray(sink.getvalue())
    digest = b"file-sha256:" + hashlib.sha256(content).hexdigest().encode()
    content = content.replace(_BLANK, digest)

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, write)


def read_table(
    path: Path, format_name: str, columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    """Open a file of `write_table` memory-mapped: its table and its metadata without prefix.

    Only `columns` are decoded, if given; a column that the file lacks is left out.

    Raises:
        VocabkitError: missing, damaged, not one of our files, or written by a newer vocabkit.
    """
    with reading(path):
        with path.open("rb") as file:
            if path.stat().st_size < 2 * len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
                raise VocabkitError(f"{path}: not an Arrow file; expected a vocabkit {format_name}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _verify_checksum(path, content)
        try:
            source = pa.memory_map(str(path))
            schema = pa.ipc.open_file(source).schema
            metadata = _our_metadata(path, schema, format_name)
            wanted = None if columns is None else [schema.get_field_index(c) for c in columns if c in schema.names]
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            table = pa.ipc.open_file(source, options=options).read_all()
            table.validate(full=True)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise VocabkitError(f"{path}: damaged Arrow file ({quote(str(error), 120)}); build it again") from error
    return table, metadata


def json_field(path: Path, metadata: Mapping[str, str], key: str) -> Any:
    """The JSON value of one metadata entry. Raises VocabkitError if it is missing or not JSON."""
    try:
        return json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise VocabkitError(f"{path}: metadata {PREFIX}{key} is missing or not JSON; build the file again") from error


def _verify_checksum(path: Path, content: mmap.mmap) -> None:
    matches = list(_DIGEST.finditer(content))
    if not matches:
        return  # rewritten by another program, which dropped the checksum: the fingerprint alone decides
    digest, position = hashlib.sha256(), 0
    for match in matches:
        digest.update(content[position : match.start()])
        digest.update(_BLANK)
        position = match.end()
    digest.update(content[position:])
    if {match.group() for match in matches} != {b"file-sha256:" + digest.hexdigest().encode()}:
        raise VocabkitError(f"{path}: damaged (its bytes don't match its checksum); build it again")


def _our_metadata(path: Path, schema: pa.Schema, format_name: str) -> dict[str, str]:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    ours = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    name, _, version = ours.get("format", "").partition("/")
    if name != format_name:
        found = f"a vocabkit {name}" if name else "an Arrow file of another program"
        raise VocabkitError(f"{path}: {found}, expected a vocabkit {format_name}")
    if version != "1":
        raise VocabkitError(
            f"{path}: {format_name} format {quote(version)}; this vocabkit reads format 1. Upgrade: pip install -U vocabkit"
        )
    return ours
