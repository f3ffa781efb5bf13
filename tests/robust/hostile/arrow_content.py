"""Files in place of a snapshot or a shared vocabulary, as another program would write them: without a checksum.

Each differs in one thing from `snapshot-sound.arrow` or `shared-sound.arrow`, and has the fingerprint of its content.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from json_content import ESCAPE

from vocabkit.arrow.arrow_file import PREFIX
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, TokenizerInfo
from vocabkit.tokenizer.vocabulary import Vocabulary

Columns = dict[str, pa.Array]


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file."""
    yield "magic-only.arrow", b"ARROW1\0\0"
    yield "garbage.arrow", b"ARROW1\0\0" + bytes(range(256)) + b"ARROW1"
    yield "another-program.arrow", arrow_file({"x": pa.array([1, 2, 3])}, {})
    yield "metadata-invalid-utf-8.arrow", arrow_file({"x": pa.array([1])}, {b"vocabkit.format": b"\xff\xfe"})
    yield from snapshots()
    yield from shared_vocabularies()


def arrow_file(columns: Columns | pa.Table, metadata: Mapping[Any, Any], compression: str | None = None) -> bytes:
    """An Arrow IPC file of one record batch."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    table = table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def lying(content: bytes, true: bytes, false: bytes) -> bytes:
    """`content` with other numbers in place of true ones."""
    assert true in content
    return content.replace(true, false)


def tokens(*values: bytes | None) -> pa.Array:
    """A column of tokens."""
    return pa.array(values, pa.binary())


# ---- snapshots ---------------------------------------------------------------------------------------------------

SNAPSHOT: Columns = {
    "token": tokens(b"a", b"a", b"<s>", b"b"),
    "kind": pa.array([0, 0, 2, 0], pa.uint8()),
    "alias_of": pa.array([None, 0, None, None], pa.int32()),
}
THREE_TIMES = {"token": tokens(b"a", b"a", b"<s>", b"a")}
SNAPSHOT_METADATA = {
    "format": "vocabulary/1", "name": "x", "roles": '{"bos":2}', "notes": "[]", "rules": "null",
    "model": '{"embedding_rows":null,"width":null}', "provenance": '{"file":"f","sha256":"0"}',
}  # fmt: skip


def snapshot(columns: Columns | pa.Table, changes: Mapping[str, str], compression: str | None = None) -> bytes:
    """A snapshot with the fingerprint of its content, where that has one."""
    metadata = {**SNAPSHOT_METADATA, "fingerprint": _fingerprint(columns, changes), **changes}
    return arrow_file(columns, {PREFIX + key: value for key, value in metadata.items()}, compression)


def _fingerprint(columns: Columns | pa.Table, changes: Mapping[str, str]) -> str:
    try:
        roles = json.loads({**SNAPSHOT_METADATA, **changes}["roles"])
        own, kinds, alias_of = (columns[name] for name in SNAPSHOT)
        aliases = [own_id if alias is None else alias for own_id, alias in enumerate(alias_of.to_pylist())]
        kinds = np.array(kinds.fill_null(0).to_numpy(zero_copy_only=False), np.uint8)
        return Vocabulary("x", "f", own, kinds, np.array(aliases, np.int32), roles).fingerprint
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, pa.ArrowException):
        return "sha256:0"


def snapshots() -> Iterator[tuple[str, bytes]]:
    """Files in place of a snapshot."""
    yield "snapshot-sound.arrow", snapshot(SNAPSHOT, {})
    changes = {
        "newer": {"format": "vocabulary/2"},
        "version-escapes": {"format": "vocabulary/" + ESCAPE},
        "other-kind": {"format": "adapter/1"},
        "kind-escapes": {"format": ESCAPE + "/1"},
        "fingerprint": {"fingerprint": "sha256:0"},
        "name-escapes": {"name": ESCAPE},
        "name-empty": {"name": ""},
        "roles-list": {"roles": "[1]"},
        "roles-text": {"roles": '{"bos":"a"}'},
        "roles-outside": {"roles": '{"bos":99}'},
        "roles-negative": {"roles": '{"bos":-1}'},
        "roles-huge": {"roles": '{"bos":1' + "0" * 5000 + "}"},
        "roles-surrogate": {"roles": r'{"\ud800":0}'},
        "roles-deep": {"roles": '{"a":' * 20_000},
        "roles-twice": {"roles": '{"bos":0,"bos":2}', "fingerprint": _fingerprint(SNAPSHOT, {"roles": '{"bos":0}'})},
        "notes-null": {"notes": "null"},
        "notes-numbers": {"notes": "[1]"},
        "notes-escapes": {"notes": json.dumps([ESCAPE])},
        "notes-deep": {"notes": "[" * 20_000},
        "model-list": {"model": "[]"},
        "model-empty": {"model": "{}"},
        "model-text": {"model": '{"embedding_rows":"many","width":null}'},
        "rules-list": {"rules": "[]"},
        "provenance-list": {"provenance": "[]"},
        "provenance-other": {"provenance": '{"colour":"red"}'},
        "not-json": {"roles": "{"},
    }
    for name, changed in changes.items():
        yield f"snapshot-{name}.arrow", snapshot(SNAPSHOT, changed)
    columns: dict[str, Columns] = {
        "empty": {name: column.slice(0, 0) for name, column in SNAPSHOT.items()},
        "kind-null": {"kind": pa.array([0, None, 2, 0], pa.uint8())},
        "kind-unknown": {"kind": pa.array([0, 0, 2, 9], pa.uint8())},
        "kind-nothing": {"kind": pa.nulls(4)},
        "kind-run-ends": {"kind": pa.RunEndEncodedArray.from_arrays([4], pa.array([0], pa.uint8()))},
        "alias-outside": {"alias_of": pa.array([None, 99, None, None], pa.int32())},
        "alias-negative": {"alias_of": pa.array([None, -7, None, None], pa.int32())},
        "alias-of-other-bytes": {"alias_of": pa.array([None, 0, None, 0], pa.int32())},
        "alias-of-alias": {**THREE_TIMES, "alias_of": pa.array([None, 0, None, 1], pa.int32())},
        "alias-wrong-type": {"alias_of": pa.array([None, 0, None, None], pa.int64())},
        "tokens-missing": {"token": tokens(b"a", b"a", b"<s>", None)},
        "tokens-text": {"token": pa.array(["a", "a", "<s>", "b"])},
        "tokens-large": {"token": SNAPSHOT["token"].cast(pa.large_binary())},
        "tokens-view": {"token": SNAPSHOT["token"].cast(pa.binary_view())},
        "tokens-dictionary": {"token": SNAPSHOT["token"].dictionary_encode()},
        "tokens-nested": {"token": pa.nulls(4, nested(60))},
    }  # fmt: skip
    for name, changed_columns in columns.items():
        yield f"snapshot-{name}.arrow", snapshot({**SNAPSHOT, **changed_columns}, {})
    yield from damaged_snapshots()


def damaged_snapshots() -> Iterator[tuple[str, bytes]]:
    """Snapshots whose form is wrong, not their content."""
    arrays, names = list(SNAPSHOT.values()), list(SNAPSHOT)
    yield "snapshot-no-kinds.arrow", snapshot({"token": SNAPSHOT["token"]}, {})
    yield "snapshot-extra-column.arrow", snapshot({**SNAPSHOT, ESCAPE: pa.nulls(4)}, {})
    twice = pa.Table.from_arrays([arrays[0], *arrays], names=["token", *names])
    yield "snapshot-tokens-twice.arrow", snapshot(twice, {})
    yield "snapshot-pickle.arrow", snapshot(pa.Table.from_arrays(arrays, schema=pickled_type(names)), {})
    rows = 0x12345
    content = snapshot({name: pa.nulls(rows) for name in names}, {})
    yield "snapshot-endless-rows.arrow", lying(content, struct.pack("<q", rows), struct.pack("<q", 1 << 62))
    plain = snapshot({**SNAPSHOT, "token": tokens(b"ab", b"cde", b"fghi", b"j")}, {})
    offsets = struct.pack("<5i", 0, 2, 5, 9, 10)
    for name, false in {
        "backwards": (0, 5, 2, 9, 10),
        "beyond": (0, 2, 5, 9, (1 << 31) - 1),
        "negative": (-5, 2, 5, 9, 10),
    }.items():
        yield f"snapshot-offsets-{name}.arrow", lying(plain, offsets, struct.pack("<5i", *false))
    zeros = {
        "token": tokens(b"", b"", b"", bytes(1 << 22)),
        "kind": SNAPSHOT["kind"],
        "alias_of": pa.nulls(4, pa.int32()),
    }
    packed = snapshot(zeros, {"roles": "{}"}, "zstd")
    yield "snapshot-bomb.arrow", packed
    zeros = {**zeros, "token": tokens(b"", b"", b"", bytes(1 << 27))}
    yield "snapshot-explodes.arrow", snapshot(zeros, {"roles": "{}"}, "zstd")
    for name, false_length in {"huge": 1 << 40, "largest": (1 << 63) - 1, "negative": -5, "small": 1}.items():
        length = struct.pack("<q", false_length)
        yield f"snapshot-length-{name}.arrow", lying(packed, struct.pack("<q", 1 << 22) + ZSTD, length + ZSTD)


ZSTD = b"\x28\xb5\x2f\xfd"
"""What a zstd frame begins with."""


def nested(levels: int) -> pa.DataType:
    """Lists of lists of lists."""
    kind: pa.DataType = pa.binary()
    for _ in range(levels):
        kind = pa.list_(kind)
    return kind


class _Code:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return _fail, ("unpickled",)


def _fail(what: str) -> None:
    raise SystemExit(what)


def pickled_type(names: list[str]) -> pa.Schema:
    """A schema whose first column says that its type is to be unpickled, as old versions of pyarrow did."""
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(_Code(), protocol=4),
    }
    fields = [pa.field(name, column.type) for name, column in SNAPSHOT.items()]
    return pa.schema([fields[0].with_metadata(metadata), *fields[1:]])


# ---- shared vocabularies -----------------------------------------------------------------------------------------

SHARED: Columns = {
    "token": tokens(b"a", b"\xff", b""),
    "text": pa.array(["a", None, ""]),
    "count": pa.array([3, 2, 0], pa.int64()),
    "id:x": pa.array([0, 1, 2], pa.int32()),
    "id:y": pa.array([5, None, 7], pa.int32()),
}
TOKENIZERS = (TokenizerInfo("x", "f", "sha256:1", 8), TokenizerInfo("y", "g", "sha256:2", 8))
SELECTION = Selection(at_least=1, order="count", corpus="c", corpus_tokens=10, mass_kept=0.5)


def _record(value: TokenizerInfo | Selection) -> dict[str, Any]:
    return {key: field for key, field in vars(value).items() if key not in ("given_roles", "origin", "unreachable")}


def shared(columns: Columns | pa.Table, changes: Mapping[str, Any], compression: str | None = None) -> bytes:
    """A shared vocabulary with the fingerprint of its content, where that has one; `changes` of its records."""
    records: dict[str, Any] = {
        "tokenizers": [_record(info) for info in TOKENIZERS],
        "selection": _record(SELECTION),
        "roles": {"bos": 2},
        **changes,
    }
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in records.items()}
    metadata = {"format": "shared-vocabulary/1", "fingerprint": _shared_fingerprint(columns, records), **metadata}
    return arrow_file(columns, {PREFIX + key: value for key, value in metadata.items()}, compression)


def _shared_fingerprint(columns: Columns | pa.Table, records: Mapping[str, Any]) -> str:
    try:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        infos = tuple(TokenizerInfo(**info) for info in records["tokenizers"])
        roles = MappingProxyType(records["roles"])
        return SharedVocabulary(table, infos, Selection(**records["selection"]), roles).fingerprint
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException):
        return "sha256:0"


def shared_vocabularies() -> Iterator[tuple[str, bytes]]:
    """Files in place of a shared vocabulary."""
    x, y = map(_record, TOKENIZERS)
    selection = _record(SELECTION)
    yield "shared-sound.arrow", shared(SHARED, {})
    yield "shared-packed.arrow", shared(SHARED, {}, "zstd")
    records: dict[str, dict[str, Any]] = {
        "newer": {"format": "shared-vocabulary/3"},
        "version-escapes": {"format": "shared-vocabulary/" + ESCAPE},
        "fingerprint": {"fingerprint": "sha256:0"},
        "no-tokenizers": {"tokenizers": []},
        "tokenizers-text": {"tokenizers": "xy"},
        "tokenizers-deep": {"tokenizers": "[" * 20_000},
        "tokenizer-unknown-field": {"tokenizers": [{"name": "x"}, y]},
        "names-the-same": {"tokenizers": [x, {**y, "name": "x"}]},
        "name-escapes": {"tokenizers": [x, {**y, "name": ESCAPE}]},
        "name-empty": {"tokenizers": [x, {**y, "name": ""}]},
        "name-is-number": {"tokenizers": [x, {**y, "name": 5}]},
        "size-zero": {"tokenizers": [x, {**y, "size": 0}]},
        "size-huge": {"tokenizers": [x, {**y, "size": 10**30}]},
        "size-small": {"tokenizers": [x, {**y, "size": 6}]},
        "embedding-rows-negative": {"tokenizers": [x, {**y, "embedding_rows": -1}]},
        "at-least-zero": {"selection": {**selection, "at_least": 0}},
        "at-least-beyond": {"selection": {**selection, "at_least": 3}},
        "at-least-float": {"selection": {**selection, "at_least": 1e5}},
        "mass-beyond": {"selection": {**selection, "mass_kept": 1.5}},
        "mass-nan": {"selection": json.dumps({**selection, "mass_kept": float("nan")})},
        "selection-null": {"selection": "null"},
        "roles-none": {"roles": {}},
        "roles-of-text": {"roles": {"bos": 0}},
        "roles-beyond": {"roles": {"bos": 3}},
        "roles-negative": {"roles": {"bos": -1}},
        "roles-list": {"roles": [2]},
    }
    for name, changes in records.items():
        yield f"shared-{name}.arrow", shared(SHARED, changes)
    columns: dict[str, Columns] = {
        "token-null": {"token": tokens(b"a", b"\xff", None)},
        "token-text": {"token": pa.array(["a", "b", ""])},
        "token-dictionary": {"token": SHARED["token"].dictionary_encode()},
        "token-repeated": {"token": tokens(b"a", b"a", b""), "text": pa.array(["a", "a", ""])},
        "text-other": {"text": pa.array(["b", None, ""])},
        "text-hidden": {"text": pa.array([None, None, ""])},
        "count-null": {"count": pa.array([3, None, 0], pa.int64())},
        "count-negative": {"count": pa.array([3, -2, 0], pa.int64())},
        "count-float": {"count": pa.array([3.0, 2.0, 0.0])},
        "id-negative": {"id:x": pa.array([0, -2, 2], pa.int32())},
        "id-beyond": {"id:x": pa.array([0, 8, 2], pa.int32())},
        "id-wide": {"id:x": pa.array([0, 1, 2], pa.int64())},
        "column-more": {ESCAPE: pa.nulls(3)},
    }
    for name, changed in columns.items():
        yield f"shared-{name}.arrow", shared({**SHARED, **changed}, {})
    yield "shared-column-less.arrow", shared({name: SHARED[name] for name in list(SHARED)[:-1]}, {})
    yield "shared-columns-turned.arrow", shared(dict(reversed(SHARED.items())), {})
    arrays, names = list(SHARED.values()), list(SHARED)
    yield "shared-id-twice.arrow", shared(pa.Table.from_arrays([*arrays, arrays[-1]], names=[*names, names[-1]]), {})
