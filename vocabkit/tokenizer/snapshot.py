"""Snapshots: one vocabulary as a small (zstd) Arrow file that opens quickly. See docs/formats.md."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import (
    fill_null,
    json_field,
    number_array,
    numbers,
    read_table,
    token_buffers,
    validity,
    write_table,
)
from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.rules import Rules
from vocabkit.tokenizer.segmentation import load_rules
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

FORMAT = "vocabulary"
_COLUMNS = {"token": pa.binary(), "kind": pa.uint8(), "alias_of": pa.int32()}


@dataclass(frozen=True)
class Provenance:
    """Source of a snapshot's vocabulary."""

    file: str
    """Path of the source file inside its package, or its name."""
    sha256: str
    """Of the source file, hexadecimal."""
    package: str | None = None
    version: str | None = None
    licence: str | None = None

    def __str__(self) -> str:
        return f"{self.package} {self.version}" if self.package else self.file


_Size = Annotated[int, msgspec.Meta(gt=0)] | None


class _Model(msgspec.Struct):
    """Size of the model's embedding table."""

    embedding_rows: _Size
    width: _Size


class _RulesSettings(msgspec.Struct):
    """The fields of `Rules` that aren't columns."""

    model: Literal["bpe", "unigram"]
    spelling: Literal["byte-level", "sentencepiece"]
    unk: int | None
    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any] | None
    options: dict[str, Any]
    added: dict[str, list[int]]


def write(path: Path, vocabulary: Vocabulary, provenance: Provenance) -> None:
    """Write a snapshot of `vocabulary`, with its segmentation rules if known. Same vocabulary, same bytes."""
    rules = load_rules(vocabulary)
    columns: dict[str, pa.Array] = {
        "token": vocabulary.tokens,
        "kind": number_array(vocabulary.kinds),
        "alias_of": number_array(vocabulary.canonical, vocabulary.canonical != np.arange(len(vocabulary))),
    }
    if rules is not None:
        columns["priority"] = number_array(rules.priority, ~np.isnan(rules.priority))
        if rules.merges is not None:
            columns["merges"] = _merges_by_left(rules.merges, len(vocabulary))
    metadata = {
        "format": f"{FORMAT}/1",
        "name": _unicode(vocabulary.name),
        "provenance": _json(asdict(provenance)),
        "roles": _json(dict(vocabulary.roles)),
        "model": _json({"embedding_rows": vocabulary.embedding_rows, "width": vocabulary.width}),
        "notes": _json(vocabulary.notes),
        "rules": _json(_rules_settings(rules)),
        "notice": "Converted by vocabkit from the file named in vocabkit.provenance, whose licence applies",
        "fingerprint": vocabulary.fingerprint,
    }
    write_table(path, pa.table(columns), metadata, compression="zstd")


def read(path: Path, name: str | None = None, *, check: bool = True) -> Vocabulary:
    """Open a snapshot; without checks if vocabkit ships it.

    Raises VocabkitError: damaged, of a newer format, or not a snapshot.
    """
    table, metadata = read_table(path, FORMAT, list(_COLUMNS), check=check)
    tokens, kinds, alias_of = (_column(path, table, column, expected) for column, expected in _COLUMNS.items())
    field = partial(json_field, str(path), metadata)
    model = field("model", _Model)
    vocabulary = Vocabulary(
        name=name or metadata.get("name", path.stem),
        source=str(field("provenance", Provenance)),
        tokens=tokens,
        kinds=numbers(kinds, np.uint8),
        canonical=_canonical(alias_of),
        roles=MappingProxyType(field("roles", dict[str, int])),
        embedding_rows=model.embedding_rows,
        width=model.width,
        notes=field("notes", tuple[str, ...]),
        segmentation=partial(_read_rules, path) if field("rules", _RulesSettings | None) else None,
    )
    if not check:
        return vocabulary
    if kinds.null_count or not _is_consistent(vocabulary):
        raise VocabkitError(f"{path}: its columns contradict each other; build the snapshot again")
    if vocabulary.fingerprint != metadata.get("fingerprint"):
        raise VocabkitError(f"{path}: content does not match its fingerprint; build the snapshot again")
    return vocabulary


def _is_consistent(vocabulary: Vocabulary) -> bool:
    """Whether the columns satisfy what `make_vocabulary` guarantees."""
    size, kinds, canonical = len(vocabulary), vocabulary.kinds, vocabulary.canonical
    if not size or kinds.max() > max(Kind) or canonical.min() < 0 or canonical.max() >= size:
        return False
    lengths = np.diff(token_buffers(vocabulary.tokens)[0])
    aliases = np.flatnonzero(canonical != np.arange(size)).tolist()
    return bool(
        (kinds[~validity(vocabulary.tokens)] == Kind.UNUSED).all()
        and (lengths[kinds == Kind.BYTE] == 1).all()
        # one by one: Array.take would import all of pyarrow.compute, which takes longer than the rest of reading
        and all(vocabulary.token(i) == vocabulary.token(int(canonical[i])) for i in aliases)
        and (canonical[canonical[aliases]] == canonical[aliases]).all()
        and all(0 <= token_id < size for token_id in vocabulary.roles.values())
    )


def _canonical(alias_of: pa.Array) -> np.ndarray:
    """Return `alias_of` as (V,) int32, with the id itself where it is null."""
    return np.where(validity(alias_of), numbers(alias_of, np.int32), np.arange(len(alias_of), dtype=np.int32))


def _column(path: Path, table: pa.Table, name: str, expected: pa.DataType) -> pa.Array:
    if name not in table.column_names or table[name].type != expected:
        raise VocabkitError(f"{path}: has no column {name!r} of type {expected}; build the snapshot again")
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _json(value: Any) -> str:
    return _unicode(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # a file's name need not be valid Unicode


# ---- segmentation rules ------------------------------------------------------------------------------------------


def _rules_settings(rules: Rules | None) -> dict[str, Any] | None:
    return None if rules is None else {key: getattr(rules, key) for key in _RulesSettings.__struct_fields__}


def _merges_by_left(merges: np.ndarray, size: int) -> pa.Array:
    """Group merges by left id: (V,) list<int32> of pairs (right id, merge number)."""
    left, right = merges.T
    order = np.argsort(left, kind="stable")
    pairs = np.stack([right, np.arange(len(merges))], axis=1)[order].astype(np.int32)
    offsets = 2 * np.searchsorted(left[order], np.arange(size + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(number_array(offsets), number_array(pairs.ravel()))


def _merges(by_left: pa.Array) -> np.ndarray:
    """Undo `_merges_by_left`: (M, 2) int32 in merge order."""
    offsets = numbers(by_left.offsets, np.int32)
    pairs = numbers(by_left.values, np.int32)[offsets[0] : offsets[-1]].reshape(-1, 2)
    left = np.repeat(np.arange(len(by_left), dtype=np.int32), np.diff(offsets) // 2)
    return np.stack([left, pairs[:, 0]], axis=1)[np.argsort(pairs[:, 1], kind="stable")]


def _read_rules(path: Path) -> Rules:
    table, metadata = read_table(path, FORMAT, ["priority", "merges"])
    settings = json_field(str(path), metadata, "rules", _RulesSettings)
    has_merges = "merges" in table.column_names
    return Rules(
        priority=fill_null(_column(path, table, "priority", pa.float32()), np.float32, null=np.nan),
        merges=_merges(_column(path, table, "merges", pa.list_(pa.int32()))) if has_merges else None,
        **msgspec.structs.asdict(settings),
    )
