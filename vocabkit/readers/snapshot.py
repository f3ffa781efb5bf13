"""Snapshots: our own Arrow file of one vocabulary, small (zstd) and quick to open. See docs/formats.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from vocabkit.arrow_file import json_field, read_table, write_table
from vocabkit.errors import VocabkitError, quote
from vocabkit.segmentation import Rules, load_rules
from vocabkit.vocabulary import Vocabulary, filled

FORMAT = "vocabulary"


@dataclass(frozen=True)
class Provenance:
    """Where the vocabulary of a snapshot comes from."""

    file: str
    """Path of the source file inside its package, or its name."""
    sha256: str
    """Of the source file, hexadecimal."""
    package: str | None = None
    version: str | None = None
    licence: str | None = None

    def __str__(self) -> str:
        return f"{self.package} {self.version}" if self.package else self.file


def write(path: Path, vocabulary: Vocabulary, provenance: Provenance) -> None:
    """Write a snapshot of `vocabulary`, its segmentation rules included where they are known.

    The same vocabulary gives the same bytes.
    """
    rules = load_rules(vocabulary)
    columns: dict[str, pa.Array] = {
        "token": vocabulary.tokens,
        "kind": pa.array(vocabulary.kinds, pa.uint8()),
        "alias_of": pa.array(vocabulary.canonical, pa.int32(), mask=vocabulary.canonical == np.arange(len(vocabulary))),
    }
    if rules is not None:
        missing = np.isnan(rules.priority)
        columns["priority"] = pa.array(rules.priority, pa.float32(), mask=missing)
        if rules.merges is not None:
            columns["merges"] = _merges_by_result(vocabulary, rules)
    metadata = {
        "format": f"{FORMAT}/1",
        "name": vocabulary.name,
        "provenance": _json(provenance.__dict__),
        "roles": _json(dict(vocabulary.roles)),
        "model": _json({"embedding_rows": vocabulary.embedding_rows, "width": vocabulary.width}),
        "notes": _json(vocabulary.notes),
        "rules": _json(_rules_settings(rules)),
        "notice": "Converted by vocabkit from the file named in vocabkit.provenance, whose licence applies",
        "fingerprint": vocabulary.fingerprint,
    }
    write_table(path, pa.table(columns), metadata, compression="zstd")


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Open a snapshot. Raises VocabkitError if it is damaged, of a newer format, or not a snapshot."""
    table, metadata = read_table(path, FORMAT, ["token", "kind", "alias_of"])
    expected = {"token": pa.binary(), "kind": pa.uint8(), "alias_of": pa.int32()}
    if dict(zip(table.schema.names, table.schema.types, strict=True)) != expected:
        raise VocabkitError(f"{path}: columns {quote(str(table.schema.names))} are not those of a snapshot")
    tokens, kinds, alias_of = (_one_chunk(table[column]) for column in expected)
    model = json_field(path, metadata, "model")
    vocabulary = Vocabulary(
        name=name or metadata.get("name", path.stem),
        source=str(read_provenance(path, metadata)),
        tokens=tokens,
        kinds=kinds.to_numpy(zero_copy_only=False),
        canonical=_canonical(alias_of),
        roles=MappingProxyType(json_field(path, metadata, "roles")),
        embedding_rows=model["embedding_rows"],
        width=model["width"],
        notes=tuple(json_field(path, metadata, "notes")),
        segmentation=partial(_read_rules, path) if json_field(path, metadata, "rules") else None,
    )
    if vocabulary.fingerprint != metadata.get("fingerprint"):
        raise VocabkitError(f"{path}: content does not match its fingerprint; build the snapshot again")
    return vocabulary


def read_provenance(path: Path, metadata: Mapping[str, str] | None = None) -> Provenance:
    """Provenance of a snapshot file."""
    if metadata is None:
        _, metadata = read_table(path, FORMAT, [])
    try:
        return Provenance(**json_field(path, metadata, "provenance"))
    except TypeError as error:
        raise VocabkitError(f"{path}: provenance is incomplete; build the snapshot again") from error


def _canonical(alias_of: pa.Array) -> np.ndarray:
    aliases = filled(alias_of, np.int32)
    return np.where(aliases < 0, np.arange(len(aliases), dtype=np.int32), aliases)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


# ---- segmentation rules ------------------------------------------------------------------------------------------


def _rules_settings(rules: Rules | None) -> dict[str, Any] | None:
    if rules is None:
        return None
    return {
        "model": rules.model,
        "spelling": rules.spelling,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "options": dict(rules.options),
    }


def _merges_by_result(vocabulary: Vocabulary, rules: Rules) -> pa.Array:
    """(V,) list<int32>: for each token the pairs left, right that make it, in merge order."""
    assert rules.merges is not None
    values = vocabulary.tokens.to_pylist()
    ids = {values[i]: i for i in np.flatnonzero(~np.isnan(rules.priority)).tolist()}
    pairs: list[list[int] | None] = [None] * len(vocabulary)
    for left, right in rules.merges.tolist():
        result = ids[values[left] + values[right]]
        pairs[result] = [*(pairs[result] or ()), left, right]
    return pa.array(pairs, pa.list_(pa.int32()))


def _read_rules(path: Path) -> Rules:
    table, metadata = read_table(path, FORMAT, ["priority", "merges"])
    settings = json_field(path, metadata, "rules")
    priority = _one_chunk(table["priority"]).to_numpy(zero_copy_only=False)
    merges = None
    if "merges" in table.column_names:
        by_result = _one_chunk(table["merges"])
        made = np.flatnonzero(by_result.is_valid().to_numpy(zero_copy_only=False))
        order = made[np.argsort(priority[made], kind="stable")]
        merges = by_result.take(pa.array(order)).flatten().to_numpy().reshape(-1, 2)
    return Rules(priority=priority, merges=merges, **settings)


