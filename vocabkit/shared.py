"""SharedVocabulary: the Arrow index maps. Row number = index in V_shared = the row order of an adapter's head."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from vocabkit.arrow_file import json_field, read_table, write_table
from vocabkit.errors import VocabkitError, quote
from vocabkit.vocabulary import Kind, Vocabulary, filled, token_buffers, validity

FORMAT = "shared-vocabulary"
_LEADING_COLUMNS = {"token": pa.binary(), "text": pa.string(), "count": pa.int64()}


@dataclass(frozen=True)
class TokenizerInfo:
    """What a shared vocabulary records of one tokenizer."""

    name: str
    source: str
    fingerprint: str
    size: int
    """Ids of the tokenizer, highest id + 1."""
    embedding_rows: int | None = None

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> TokenizerInfo:
        """The record of `vocabulary`."""
        v = vocabulary
        return cls(v.name, v.source, v.fingerprint, len(v), v.embedding_rows)


@dataclass(frozen=True)
class Selection:
    """How the rows were selected and ordered."""

    at_least: int
    """Number of tokenizers that must have a token."""
    order: str
    """`id:<name>`: by that tokenizer's ids; `count`: most frequent first; `map:<file>`: as in an imported map."""
    corpus: str | None = None
    """What was counted: file names, and the tokenizer that counted."""
    corpus_tokens: int | None = None
    """Tokens in that corpus."""
    mass_kept: float | None = None
    """Share of the corpus tokens that are rows, 0 to 1."""


@dataclass(frozen=True, eq=False)
class SharedVocabulary:
    """R tokens shared by K tokenizers. Immutable; made by `align`, `rank` or `open_shared`."""

    table: pa.Table
    """(R rows) columns `token` binary, `text` string or null, `count` int64 or null, `id:<name>` int32 or null."""
    tokenizers: tuple[TokenizerInfo, ...]
    selection: Selection
    roles: Mapping[str, int]
    """Role -> row, for rows that stand for special tokens. Their `token` is empty."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def names(self) -> list[str]:
        """Names of the tokenizers, in column order."""
        return [info.name for info in self.tokenizers]

    @property
    def tokens(self) -> pa.Array:
        """(R,) binary: the bytes of each row."""
        return _one_chunk(self.table["token"])

    @property
    def counts(self) -> np.ndarray | None:
        """(R,) int64 corpus frequencies, None if no corpus was counted."""
        counts = _one_chunk(self.table["count"])
        return None if counts.null_count else counts.to_numpy()

    def ids_for(self, name: str) -> np.ndarray:
        """(R,) int32, read-only: the id of each row in tokenizer `name`, without a copy.

        Raises VocabkitError: `name` is not in the file, or lacks some rows (a union map); `mask_for` tells which,
        `only_with` leaves them out.
        """
        column = self._id_column(name)
        if column.null_count:
            raise VocabkitError(
                f"{name} lacks {column.null_count} of {len(self)} rows of this union; "
                f"take only_with({name!r}) or mask_for({name!r}) first"
            )
        ids: np.ndarray = column.to_numpy()
        return ids

    def mask_for(self, name: str) -> np.ndarray:
        """(R,) bool: True where tokenizer `name` has the token of the row."""
        return validity(self._id_column(name))

    def only_with(self, *names: str) -> SharedVocabulary:
        """The rows that every one of `names` has."""
        mask = np.logical_and.reduce([self.mask_for(name) for name in names])
        return self.select(np.flatnonzero(mask))

    def select(self, rows: Sequence[int] | np.ndarray, selection: Selection | None = None) -> SharedVocabulary:
        """These rows, in this order. Raises VocabkitError if a row is out of range or given twice."""
        index = np.asarray(rows, np.int64)
        if len(np.unique(index)) != len(index) or (len(index) and not 0 <= index.min() <= index.max() < len(self)):
            raise VocabkitError(f"rows to select must be distinct and within 0..{len(self) - 1}")
        where = {int(old): new for new, old in enumerate(index)}
        roles = {role: where[row] for role, row in self.roles.items() if row in where}
        table = self.table.take(pa.array(index)).combine_chunks()
        return SharedVocabulary(table, self.tokenizers, selection or self.selection, MappingProxyType(roles))

    def with_counts(self, counts: np.ndarray) -> SharedVocabulary:
        """The same rows with corpus frequencies, (R,) int64."""
        position = self.table.column_names.index("count")
        table = self.table.set_column(position, "count", pa.array(counts, pa.int64()))
        return dataclasses.replace(self, table=table)

    def extend(self, vocabulary: Vocabulary) -> SharedVocabulary:
        """The same rows with one more tokenizer: null where it lacks the token or the role.

        Raises VocabkitError if a tokenizer of that name is there already.
        """
        if vocabulary.name in self.names:
            raise VocabkitError(f"{vocabulary.name} is already in this shared vocabulary")
        values = vocabulary.tokens.to_pylist()
        id_of = {values[i]: i for i in np.flatnonzero(vocabulary.alignable).tolist()}
        ids = np.fromiter((id_of.get(token, -1) for token in self.tokens.to_pylist()), np.int32, len(self))
        for role, row in self.roles.items():
            ids[row] = vocabulary.roles.get(role, -1)
        column = pa.array(ids, pa.int32(), mask=ids < 0)
        table = self.table.append_column(f"id:{vocabulary.name}", column)
        return dataclasses.replace(self, table=table, tokenizers=(*self.tokenizers, TokenizerInfo.of(vocabulary)))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over rows, ids, counts and records of the tokenizers. Does not depend on machine, compression or
        the version of any library."""
        digest = hashlib.sha256(b"vocabkit shared vocabulary 1\n")
        digest.update(_json(_metadata(self)).encode())
        offsets, data = token_buffers(self.tokens)
        counts = filled(_one_chunk(self.table["count"]), np.int64)
        ids = [filled(self._id_column(name), np.int32) for name in self.names]
        for part in (np.diff(offsets).astype("<i4"), data, counts.astype("<i8"), *(i.astype("<i4") for i in ids)):
            digest.update(memoryview(np.ascontiguousarray(part)).cast("B"))
        return "sha256:" + digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the Arrow file, whole or not at all. Same content, same bytes. Raises VocabkitError."""
        metadata = {key: _json(value) for key, value in _metadata(self).items()}
        write_table(path, self.table, {**metadata, "format": f"{FORMAT}/1", "fingerprint": self.fingerprint}, None)

    def _id_column(self, name: str) -> pa.Array:
        if name not in self.names:
            raise VocabkitError(f"{name} is not in this shared vocabulary; it holds {', '.join(self.names)}")
        return _one_chunk(self.table[f"id:{name}"])


def make_shared(
    *,
    tokens: pa.Array,
    ids: np.ndarray,
    tokenizers: Sequence[TokenizerInfo],
    selection: Selection,
    roles: Mapping[str, int] | None = None,
    counts: np.ndarray | None = None,
) -> SharedVocabulary:
    """A SharedVocabulary from its parts: tokens (R,) binary, ids (K, R) int32 with -1 for null, counts (R,) int64."""
    rows = len(tokens)
    columns = {
        "token": tokens,
        "text": text_column(tokens),
        "count": pa.array(counts, pa.int64()) if counts is not None else pa.nulls(rows, pa.int64()),
    }
    for info, column in zip(tokenizers, ids, strict=True):
        missing = column < 0
        columns[f"id:{info.name}"] = pa.array(column, pa.int32(), mask=missing if missing.any() else None)
    return SharedVocabulary(pa.table(columns), tuple(tokenizers), selection, MappingProxyType(dict(roles or {})))


def open_shared(path: Path) -> SharedVocabulary:
    """Open a shared vocabulary memory-mapped, verified by checksum and fingerprint.

    Raises VocabkitError: missing, damaged, of a newer format, or not a shared vocabulary.
    """
    table, metadata = read_table(path, FORMAT)
    try:
        tokenizers = tuple(TokenizerInfo(**entry) for entry in json_field(path, metadata, "tokenizers"))
        selection = Selection(**json_field(path, metadata, "selection"))
        roles = MappingProxyType(dict(json_field(path, metadata, "roles")))
    except (TypeError, ValueError) as error:
        raise VocabkitError(f"{path}: its records of tokenizers are not as expected; build it again") from error
    expected = {**_LEADING_COLUMNS, **{f"id:{info.name}": pa.int32() for info in tokenizers}}
    if dict(zip(table.schema.names, table.schema.types, strict=True)) != expected:
        raise VocabkitError(f"{path}: columns {quote(', '.join(table.schema.names), 200)} are not as expected")
    shared = SharedVocabulary(table, tokenizers, selection, roles)
    if shared.fingerprint != metadata.get("fingerprint"):
        raise VocabkitError(f"{path}: damaged (its content does not match its fingerprint); build it again")
    return shared


def verify(shared: SharedVocabulary, vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """What is wrong with a shared vocabulary, row by row, against its tokenizers; [] if nothing is.

    Each line names a tokenizer, a row, and the token expected and found; at most 10 lines per tokenizer.
    """
    problems: list[str] = []
    for info in shared.tokenizers:
        vocabulary = vocabularies[info.name]
        if vocabulary.fingerprint != info.fingerprint:
            problems.append(
                f"{info.name}: the file was built with another version of this tokenizer "
                f"({info.fingerprint[:19]}…, now {vocabulary.fingerprint[:19]}…)"
            )
        problems += _wrong_rows(shared, info, vocabulary)
    text = text_column(shared.tokens)
    if not text.equals(_one_chunk(shared.table["text"])):
        problems.append("column text does not match column token")
    duplicates = len(shared) - len(shared.roles) - len({token for token in shared.tokens.to_pylist() if token})
    if duplicates:
        problems.append(f"{duplicates} rows repeat a token of another row")
    return problems


def _wrong_rows(shared: SharedVocabulary, info: TokenizerInfo, vocabulary: Vocabulary) -> list[str]:
    mask = shared.mask_for(info.name)
    rows = np.flatnonzero(mask)
    ids = filled(shared._id_column(info.name), np.int32)[rows]
    outside = (ids < 0) | (ids >= len(vocabulary))
    role_of = {row: role for role, row in shared.roles.items()}
    is_role = np.isin(rows, list(role_of))
    safe = np.where(outside, 0, ids)
    expected, actual = shared.tokens.to_pylist(), vocabulary.tokens.to_pylist()
    same = [expected[row] == actual[i] for row, i in zip(rows.tolist(), safe.tolist(), strict=True)]
    good = np.array(same, bool) & (vocabulary.kinds[safe] <= Kind.BYTE) & (vocabulary.canonical[safe] == safe)
    for at in np.flatnonzero(is_role):
        good[at] = vocabulary.roles.get(role_of[int(rows[at])]) == ids[at]
    wrong = np.flatnonzero(~good | outside)
    lines = []
    for at in wrong[:10]:
        row, token_id = int(rows[at]), int(ids[at])
        found = "no such id" if outside[at] else repr(vocabulary.token(token_id))
        lines.append(f"{info.name}: row {row} is {shared.tokens[row].as_py()!r}, but id {token_id} is {found}")
    if len(wrong) > 10:
        lines.append(f"{info.name}: and {len(wrong) - 10} more rows")
    return lines


def text_column(tokens: pa.Array) -> pa.Array:
    """(R,) string: tokens as text, null where their bytes are not valid UTF-8. Shares the tokens' memory."""
    offsets, data = token_buffers(tokens)
    beyond_ascii = np.concatenate([[0], np.cumsum(data > 0x7F, dtype=np.int64)])
    values = tokens.to_pylist()
    invalid = [row for row in np.flatnonzero(np.diff(beyond_ascii[offsets])).tolist() if not _is_utf8(values[row])]
    valid = np.ones(len(tokens), bool)
    valid[invalid] = False
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if invalid else None
    buffers = [bitmap, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(tokens), buffers)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _metadata(shared: SharedVocabulary) -> dict[str, Any]:
    return {
        "tokenizers": [dataclasses.asdict(info) for info in shared.tokenizers],
        "selection": dataclasses.asdict(shared.selection),
        "roles": dict(shared.roles),
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
