"""SharedVocabulary: one Arrow table of shared words or tokens and their ids in each tokenizer, and searches in it.

Row number = index in V_shared = row of an adapter's head. Each tokenizer spells a row by a list of ids. Where all lists
have one id, the rows are tokens, and their columns hold plain ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import (
    bitmap,
    fill_null,
    json_field,
    number_array,
    numbers,
    one_chunk,
    parse_table,
    read_table,
    table_bytes,
    take,
    token_buffers,
    validity,
    write_table,
)
from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import MAX_TOKENS, Vocabulary

if TYPE_CHECKING:
    import pandas

FORMAT = "shared-vocabulary"
VERSION, VERSION_OF_WORDS = 1, 2
"""Of the format: programs that know only the first can't read lists of ids."""
_LISTS = pa.list_(pa.int32())
_LEADING_COLUMNS = {"token": pa.binary(), "text": pa.string(), "count": pa.int64()}
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True)
class TokenizerInfo:
    """What a shared vocabulary records of one tokenizer."""

    name: str
    source: str
    fingerprint: str
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    """Ids of the tokenizer, highest id + 1."""
    embedding_rows: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    given_roles: dict[str, str] | None = None
    """Roles that the user gave (see `Vocabulary.given_roles`)."""
    origin: str | None = None
    """Where it is found again (see `Vocabulary.origin`). Not part of the fingerprint."""

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise VocabkitError(f"{quote(self.name)} can't name a tokenizer; give it a name: NAME=TOKENIZER")

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> TokenizerInfo:
        """The record of `vocabulary`. Raises VocabkitError if its name is empty or not printable."""
        v = vocabulary
        return cls(
            v.name,
            v.source,
            v.fingerprint,
            len(v),
            v.embedding_rows,
            dict(v.given_roles) if v.given_roles else None,
            v.origin,
        )


@dataclass(frozen=True)
class Selection:
    """How the rows were selected and ordered."""

    at_least: int
    """Number of tokenizers that must have a token."""
    order: str
    """`id:<name>`: by that tokenizer's ids; `count`: most frequent first; `map`: as in an imported map (`map:<file>` in
    files of earlier versions); `given`: as the caller of `select` gave them."""
    corpus: str | None = None
    """What was counted: file names, and the tokenizer that counted."""
    corpus_tokens: _Count | None = None
    """Tokens in that corpus."""
    mass_kept: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Share of the corpus tokens that are rows, 0 to 1."""
    unreachable: _Count | None = None
    """Tokens left out because encode never produces them in some tokenizer; None if they were not looked for."""


@dataclass(frozen=True, eq=False)
class Spellings:
    """How one tokenizer spells rows: row r as `ids[offsets[r]:offsets[r + 1]]`; no ids where it lacks the row."""

    ids: np.ndarray
    """(I,) int32."""
    offsets: np.ndarray
    """(R + 1,) int64, from 0 to I."""

    @classmethod
    def of(cls, lists: Iterable[Sequence[int] | None]) -> Spellings:
        """The ids of each row; None or nothing where it is lacking."""
        rows = [row or () for row in lists]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        return cls(np.fromiter((i for row in rows for i in row), np.int32, int(offsets[-1])), offsets)

    @classmethod
    def of_one_each(cls, ids: np.ndarray) -> Spellings:
        """(R,) int32 with -1 where a row is lacking."""
        return cls(ids[ids >= 0], np.concatenate([[0], np.cumsum(ids >= 0, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(R,) int64: number of ids of each row."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Spellings:
        """The spellings of `rows`, (S,) integers."""
        return Spellings.of(self.lists(rows))

    def lists(self, rows: Iterable[int] | None = None) -> list[list[int]]:
        """The ids of each row, or of each of `rows`."""
        bounds, ids = self.offsets.tolist(), self.ids.tolist()
        return [ids[bounds[row] : bounds[row + 1]] for row in (range(len(self)) if rows is None else rows)]


@dataclass(frozen=True, eq=False)
class SharedVocabulary:
    """R words or tokens shared by K tokenizers. Immutable; made by `align`, `align_words`, `rank` or `open_shared`."""

    table: pa.Table
    """(R rows) columns `token` binary, `text` string or null, `count` int64 or null; for each tokenizer `id:<name>`,
    int32 or null or, if the rows are words, a list of int32 or null."""
    tokenizers: tuple[TokenizerInfo, ...]
    selection: Selection
    roles: Mapping[str, int]
    """Role -> row, for rows that stand for special tokens. Their `token` is empty."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        return f"SharedVocabulary({', '.join(self.names)}: {len(self):,} rows)"

    def __contains__(self, token: object) -> bool:
        """Whether some row has this token, bytes or its text as `str`."""
        return (token.encode() if isinstance(token, str) else token) in self._rows

    def __getitem__(self, row: int) -> bytes:
        """The token of a row, as bytes; empty for the row of a role. Iterating gives all tokens in row order."""
        return bytes(self.tokens[operator.index(row)].as_py())

    def row_of(self, token: bytes | str) -> int:
        """The row of a token. Raises KeyError if there is none; see `in`."""
        return self._rows[token.encode() if isinstance(token, str) else token]

    @cached_property
    def _rows(self) -> dict[bytes, int]:
        return {token: row for row, token in enumerate(self.tokens.to_pylist()) if token}

    @property
    def of_words(self) -> bool:
        """Whether rows are words, each spelled by a list of ids, and not tokens of one id."""
        return bool(pa.types.is_list(self.table.schema.field(len(_LEADING_COLUMNS)).type))

    def to_arrow(self) -> pa.Table:
        """The table itself: `token`, `text`, `count` and one `id:<name>` per tokenizer."""
        return self.table

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a DataFrame whose index is the row number; integers are of pandas' nullable types.

        Raises VocabkitError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise VocabkitError("to_pandas needs pandas: pip install pandas") from error
        types = {pa.int32(): pandas.Int32Dtype(), pa.int64(): pandas.Int64Dtype()}
        return self.table.to_pandas(types_mapper=types.get)

    @property
    def names(self) -> list[str]:
        """Names of the tokenizers, in column order."""
        return [info.name for info in self.tokenizers]

    @property
    def tokens(self) -> pa.Array:
        """(R,) binary: the bytes of each row."""
        return one_chunk(self.table["token"])

    @property
    def counts(self) -> np.ndarray | None:
        """(R,) int64 corpus frequencies, None if no corpus was counted."""
        counts = one_chunk(self.table["count"])
        return None if counts.null_count else fill_null(counts, np.int64)

    def spellings(self, name: str) -> Spellings:
        """How tokenizer `name` spells the rows: as `ids_with_gaps` for tokens, lists of ids for words."""
        if not self.of_words:
            return Spellings.of_one_each(self.ids_with_gaps(name))
        column = self.ids_column(name)
        ids = fill_null(column.flatten(), np.int32)  # without what lies under nulls
        lengths = np.where(validity(column), np.diff(numbers(column.offsets, np.int32)), 0)
        return Spellings(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def spellings_for(self, name: str) -> Spellings:
        """`spellings` of a tokenizer that has all rows.

        Raises VocabkitError: `name` is not in the file, or lacks some rows (a union map); `mask_for` tells which,
        `only_with` leaves them out.
        """
        missing = self.ids_column(name).null_count
        if missing:
            raise VocabkitError(
                f"{name} lacks {missing} of {len(self)} rows of this union; "
                f"take only_with({name!r}) or mask_for({name!r}) first"
            )
        return self.spellings(name)

    def ids_for(self, name: str) -> np.ndarray:
        """(R,) int32: the id of each row in tokenizer `name`. A new array, as `torch.from_numpy` takes it.

        Raises VocabkitError: as `spellings_for`; or rows are words.
        """
        self.spellings_for(name)
        return self.ids_with_gaps(name)

    def ids_with_gaps(self, name: str) -> np.ndarray:
        """(R,) int32: as `ids_for`, with -1 where tokenizer `name` lacks the token of the row."""
        column = self.ids_column(name)
        if self.of_words:
            raise VocabkitError(f"these rows are words, which have several ids: take spellings({name!r})")
        return fill_null(column, np.int32)

    def mask_for(self, name: str) -> np.ndarray:
        """(R,) bool: True where tokenizer `name` has the token of the row."""
        return validity(self.ids_column(name))

    def only_with(self, *names: str) -> SharedVocabulary:
        """The rows that every one of `names` has."""
        mask = np.ones(len(self), bool)
        for name in names:
            mask &= self.mask_for(name)
        return self.select(np.flatnonzero(mask))

    def select(self, rows: Sequence[int] | np.ndarray, selection: Selection | None = None) -> SharedVocabulary:
        """These rows, in this order.

        Args:
            rows: (S,) integers, distinct.
            selection: how they were chosen. Without it, the record tells their order and what they keep of the corpus.

        Raises:
            VocabkitError: a row is no integer, out of range or given twice.
        """
        index = np.asarray(rows)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise VocabkitError(f"rows to select must be a list of row numbers, not {quote(str(index.dtype))}")
        index = index.astype(np.int64)
        if len(np.unique(index)) != len(index) or (len(index) and not 0 <= index.min() <= index.max() < len(self)):
            raise VocabkitError(f"rows to select must be distinct and within 0..{len(self) - 1}")
        where = {int(old): new for new, old in enumerate(index)}
        roles = {role: where[row] for role, row in self.roles.items() if row in where}
        has_text = validity(one_chunk(self.table["text"]))[index]
        counts = fill_null(one_chunk(self.table["count"]), np.int64)[index]
        ids = {name: column.take(index) for name, column in self._ids().items()}
        table = shared_table(take(self.tokens, index), has_text, counts, ids)
        record = selection or self._selection_of(index)
        return SharedVocabulary(table, self.tokenizers, record, MappingProxyType(roles))

    def with_counts(self, counts: np.ndarray) -> SharedVocabulary:
        """The same rows with corpus frequencies, (R,) int64. Raises VocabkitError for another shape or type."""
        if counts.shape != (len(self),) or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise VocabkitError(f"counts must be {len(self)} integers from 0, one per row")
        position = self.table.column_names.index("count")
        table = self.table.set_column(position, "count", nullable(counts.astype(np.int64)))
        return dataclasses.replace(self, table=table)

    def spell(self, vocabulary: Vocabulary) -> Spellings:
        """How `vocabulary` spells the rows: tokens as by `look_up`, words as its encode cuts them in running text.

        Raises VocabkitError: for words, its source doesn't say how it cuts text.
        """
        return Spellings.of_one_each(self.look_up(vocabulary)) if not self.of_words else spell(self.tokens, vocabulary)

    def look_up(self, vocabulary: Vocabulary) -> np.ndarray:
        """(R,) int32: the id of each row in `vocabulary`, by bytes and roles; -1 where it lacks the token or role."""
        ids = vocabulary.ids_of(self.tokens)
        for role, row in self.roles.items():
            ids[row] = vocabulary.role_id(role)
        return ids

    def extend(self, vocabulary: Vocabulary) -> SharedVocabulary:
        """The same rows with one more tokenizer: null where it lacks the token or the role, or can't spell the word.

        Raises VocabkitError: a tokenizer of that name is there already; or as `spell`.
        """
        if vocabulary.name in self.names:
            raise VocabkitError(f"{vocabulary.name} is already in this shared vocabulary")
        info = TokenizerInfo.of(vocabulary)
        column = lists(self.spell(vocabulary)) if self.of_words else nullable(self.look_up(vocabulary))
        table = self.table.append_column(f"id:{vocabulary.name}", column)
        return dataclasses.replace(self, table=table, tokenizers=(*self.tokenizers, info))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over rows, ids, counts and records of the tokenizers. Does not depend on machine, compression or
        the version of any library.
        """
        digest = hashlib.sha256(b"vocabkit shared vocabulary %d\n" % self._version)
        unplaced = tuple(dataclasses.replace(info, origin=None) for info in self.tokenizers)
        records = dataclasses.replace(self, tokenizers=unplaced)._records()
        digest.update(_json({**records, "rows": len(self)}).encode())
        offsets, data = token_buffers(self.tokens)
        counts = fill_null(one_chunk(self.table["count"]), np.int64)
        ids = [
            part
            for column in self._ids().values()
            for part in ((column.lengths, column.ids) if isinstance(column, Spellings) else (column,))
        ]
        for part in (np.diff(offsets).astype("<i4"), data, counts.astype("<i8"), *(i.astype("<i4") for i in ids)):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
        return "sha256:" + digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the Arrow file, whole or not at all. Same content, same bytes. Raises VocabkitError."""
        write_table(Path(path), self._plain_table(), self._metadata(), compression=None)

    def to_bytes(self) -> bytes:
        """The content of the Arrow file, for keeping inside another file; `parse_shared` reads it."""
        return bytes(table_bytes(self._plain_table(), self._metadata(), compression=None))

    @property
    def _version(self) -> int:
        return VERSION_OF_WORDS if self.of_words else VERSION

    def _ids(self) -> dict[str, Ids]:
        """Name of a tokenizer -> its column."""
        return {name: self.spellings(name) if self.of_words else self.ids_with_gaps(name) for name in self.names}

    def ids_column(self, name: str) -> pa.Array:
        """(R,) int32 or, for words, lists of int32: the column of tokenizer `name`, null where it lacks the row.

        Raises VocabkitError: `name` is not in the file.
        """
        if name not in self.names:
            raise VocabkitError(f"{name} is not in this shared vocabulary; it holds {', '.join(self.names)}")
        return one_chunk(self.table[f"id:{name}"])

    def _selection_of(self, rows: np.ndarray) -> Selection:
        order = self.selection.order if (np.diff(rows) > 0).all() else "given"
        mass = self.selection.mass_kept
        if mass is not None and self.counts is not None and self.selection.corpus_tokens:
            mass = int(self.counts[rows].sum()) / self.selection.corpus_tokens
        return dataclasses.replace(self.selection, order=order, mass_kept=mass)

    def _plain_table(self) -> pa.Table:
        """The table with nothing that depends on its history: what lies under nulls, chunks, offsets."""
        has_text = validity(one_chunk(self.table["text"]))
        counts = fill_null(one_chunk(self.table["count"]), np.int64)
        return shared_table(self.tokens, has_text, counts, self._ids())

    def _records(self) -> dict[str, Any]:
        return {
            "tokenizers": [_record(info) for info in self.tokenizers],
            "selection": _record(self.selection),
            "roles": dict(self.roles),
        }

    def _metadata(self) -> dict[str, str]:
        records = {key: _json(value) for key, value in self._records().items()}
        return {**records, "format": f"{FORMAT}/{self._version}", "fingerprint": self.fingerprint}


def make_shared(
    *,
    tokens: pa.Array,
    ids: np.ndarray | Sequence[Spellings],
    tokenizers: Sequence[TokenizerInfo],
    selection: Selection,
    roles: Mapping[str, int] | None = None,
) -> SharedVocabulary:
    """A SharedVocabulary from its parts: tokens (R,) binary; ids (K, R) int32 with -1 for null or, for words, lists."""
    no_counts = np.full(len(tokens), -1, np.int64)
    named: dict[str, Ids] = {info.name: column for info, column in zip(tokenizers, ids, strict=True)}
    table = shared_table(tokens, text_mask(tokens), no_counts, named)
    return SharedVocabulary(table, tuple(tokenizers), selection, MappingProxyType(dict(roles or {})))


def open_shared(path: str | Path) -> SharedVocabulary:
    """Open a shared vocabulary memory-mapped, verified by checksum and fingerprint.

    Raises VocabkitError: missing, damaged, of a newer format, or not a shared vocabulary.
    """
    return _checked(str(path), *read_table(Path(path), FORMAT, newest=VERSION_OF_WORDS))


def parse_shared(content: bytes | mmap | memoryview, where: str) -> SharedVocabulary:
    """`open_shared` of a file's bytes, as `to_bytes` gives, without copying them. Errors name them `where`."""
    return _checked(where, *parse_table(content, where, FORMAT, newest=VERSION_OF_WORDS))


def _checked(where: str, table: pa.Table, metadata: Mapping[str, str]) -> SharedVocabulary:
    tokenizers = json_field(where, metadata, "tokenizers", tuple[TokenizerInfo, ...])
    selection = json_field(where, metadata, "selection", Selection)
    roles = json_field(where, metadata, "roles", dict[str, _Count])
    ids = _LISTS if metadata.get("format") == f"{FORMAT}/{VERSION_OF_WORDS}" else pa.int32()
    columns = pa.schema([*_LEADING_COLUMNS.items(), *((f"id:{info.name}", ids) for info in tokenizers)])
    if table.schema != columns and table.column_names == columns.names and all(map(_is_plain, table.schema.types)):
        with contextlib.suppress(pa.ArrowException):  # the error below names what can't be cast
            table = table.cast(columns)
    if table.schema != columns:
        found = [(field.name, field.type) for field in table.schema]
        shown = ", ".join(f"{name} {kind}" for name, kind in found)
        raise VocabkitError(f"{where}: columns {quote(shown, 200)} are not as expected; build it again")
    shared = SharedVocabulary(table, tokenizers, selection, MappingProxyType(roles))
    if contradiction := _contradiction(shared):
        raise VocabkitError(f"{where}: {contradiction}; build it again")
    if shared.fingerprint != metadata.get("fingerprint"):
        raise VocabkitError(f"{where}: damaged (its content does not match its fingerprint); build it again")
    return shared


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values are stored one by one, maybe with wider offsets or numbers than ours. Those of dictionaries and
    views can share their bytes, and fill the memory when they are cast.
    """
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
        return bool(types.is_integer(kind))
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return any(is_type(kind) for is_type in (types.is_integer, *texts))


def _contradiction(shared: SharedVocabulary) -> str | None:
    """What can't be in a file that vocabkit wrote, whatever its fingerprint says."""
    if not shared.names:
        return "it has no tokenizers"
    if len(set(shared.names)) < len(shared.names):
        return "two of its tokenizers have one name"
    if not 1 <= shared.selection.at_least <= len(shared.names):
        return f"at_least is {shared.selection.at_least} for {len(shared.names)} tokenizers"
    tokens, text, count = (one_chunk(shared.table[column]) for column in _LEADING_COLUMNS)
    if tokens.null_count:
        return "column token has nulls"
    has_text = validity(text)  # where it has, Arrow has checked that it is UTF-8
    lacking = np.flatnonzero(~has_text).tolist()
    if not text_column(tokens, has_text).equals(text) or any(is_utf8(tokens[row].as_py()) for row in lacking):
        return "column text does not match column token"
    empty_rows = np.flatnonzero(np.diff(token_buffers(tokens)[0]) == 0)
    if sorted(shared.roles.values()) != empty_rows.tolist():
        return "its roles do not match its rows without a token"
    if count.null_count not in (0, len(shared)) or (count.null_count == 0 and (fill_null(count, np.int64) < 0).any()):
        return "column count has nulls or negative numbers"
    for info in shared.tokenizers:
        has_row = shared.mask_for(info.name)
        if shared.of_words:
            found = shared.spellings(info.name)
            ids = found.ids
            if not np.array_equal(found.lengths > 0, has_row):
                return f"column id:{info.name} has words without ids"
        else:
            ids = shared.ids_with_gaps(info.name)[has_row]
        if len(ids) and not 0 <= ids.min() <= ids.max() < info.size:
            return f"column id:{info.name} has ids outside 0..{info.size - 1}"
    return None


_LATER = ("given_roles", "origin", "unreachable")
"""Fields that files did not have at first: left out where they are unset, so that fingerprints stay."""


def _record(value: TokenizerInfo | Selection) -> dict[str, Any]:
    return {key: field for key, field in dataclasses.asdict(value).items() if key not in _LATER or field is not None}


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode()  # a file name need not be valid Unicode


# ---- columns ---------------------------------------------------------------------------------------------------------

Ids = np.ndarray | Spellings
"""A column of a tokenizer: (R,) int32 with -1 for null, or lists."""


def shared_table(tokens: pa.Array, has_text: np.ndarray, counts: np.ndarray, ids: Mapping[str, Ids]) -> pa.Table:
    """The columns of a shared vocabulary, from numbers with -1 for null."""
    offsets, data = token_buffers(tokens)
    columns = {
        "token": pa.Array.from_buffers(pa.binary(), len(tokens), [None, pa.py_buffer(offsets), pa.py_buffer(data)]),
        "text": text_column(tokens, has_text),
        "count": nullable(counts),
    }
    own = {
        f"id:{name}": lists(column) if isinstance(column, Spellings) else nullable(column)
        for name, column in ids.items()
    }
    return pa.table({**columns, **own})


def nullable(numbers: np.ndarray) -> pa.Array:
    """A copy of `numbers`, int32 or int64, as a column of their type, -1 as null."""
    return number_array(np.maximum(numbers, 0), numbers >= 0)


def lists(spellings: Spellings) -> pa.Array:
    """The spellings as a column of lists, null where there are no ids."""
    buffers = [bitmap(spellings.lengths > 0), pa.py_buffer(spellings.offsets.astype(np.int32))]
    children = [number_array(spellings.ids)]
    return pa.Array.from_buffers(_LISTS, len(spellings), buffers, children=children)


def spell(tokens: pa.Array, vocabulary: Vocabulary) -> Spellings:
    """The ids that encode gives for each of `tokens`, (R,) binary, in running text.

    None where these ids don't join to the same bytes, for instance because the tokenizer lower-cases text, or where one
    of them has no row in the embedding table.

    Raises VocabkitError: the source of `vocabulary` doesn't say how it cuts text.
    """
    found = Segmenter(vocabulary).ids_of_each(tokens.to_pylist())
    rows = vocabulary.embedding_rows or len(vocabulary)
    return Spellings.of(ids if ids and max(ids) < rows else None for ids in found)


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


@dataclass(frozen=True)
class Row:
    """One row: a token, or the role of a special token, with its id in every tokenizer."""

    row: int
    token: bytes
    """Empty for a role."""
    role: str | None
    count: int | None
    """How often it occurs in the corpus that the rows were ranked by."""
    ids: dict[str, int | list[int] | None]
    """Name of a tokenizer -> id or, of a word, its ids; None where it lacks the row."""


def find_rows(
    shared: SharedVocabulary,
    *,
    token: bytes | None = None,
    search: bytes | None = None,
    rows: tuple[int, int] | None = None,
) -> np.ndarray:
    """(W,) numbers of the rows that fit everything asked for, ascending.

    Args:
        token: the whole token.
        search: bytes that the token contains; upper and lower case of ASCII letters are the same.
        rows: first row, and one past the last.

    Raises VocabkitError: `rows` beyond the vocabulary.
    """
    first, last = rows or (0, len(shared))
    if not 0 <= first < last <= len(shared):
        raise VocabkitError(f"`rows` {quote(f'{first}:{last}')}: give a range within 0:{len(shared)}")
    tokens = shared.tokens.slice(first, last - first).to_pylist()
    found = range(len(tokens))
    if token is not None:
        found = [i for i in found if tokens[i] == token]  # type: ignore[assignment]
    if search is not None:
        wanted = search.lower()
        found = [i for i in found if wanted in tokens[i].lower()]  # type: ignore[assignment]
    return np.array(found, np.int64) + first


def read_rows(shared: SharedVocabulary, rows: Sequence[int] | np.ndarray) -> list[Row]:
    """These rows, in this order."""
    index = np.asarray(rows, np.int64)
    role_of = {row: role for role, row in shared.roles.items()}
    columns = {name: shared.spellings(name).lists(index.tolist()) for name in shared.names}
    tokens = shared.tokens.take(index).to_pylist()
    counts = None if shared.counts is None else shared.counts[index].tolist()
    return [
        Row(
            row=row,
            token=tokens[at],
            role=role_of.get(row),
            count=None if counts is None else counts[at],
            ids={
                name: None if not ids[at] else ids[at] if shared.of_words else ids[at][0]
                for name, ids in columns.items()
            },
        )
        for at, row in enumerate(index.tolist())
    ]
