"""Every token of several tokenizers, for a table that can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from vocabkit.alignment import align
from vocabkit.arrow_values import taken
from vocabkit.report.html.page import pack, spelled
from vocabkit.vocabulary import Vocabulary

MAX_BYTES = 1_900_000
"""Of the packed data of a table, so that a page stays below two megabytes."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Tokens of K tokenizers, in the order of a union map."""

    names: tuple[str, ...]
    tokens: tuple[bytes, ...]
    """T, distinct."""
    ids: np.ndarray
    """(K, T) int32: the canonical id in each tokenizer, -1 where it lacks the token."""
    aliases: tuple[dict[int, list[int]], ...]
    """K: row -> further ids of the same bytes."""
    left_out: int
    """Tokens that are not in the table: those that the fewest tokenizers have, of these the longest."""


def token_table(vocabularies: Sequence[Vocabulary], *, max_bytes: int = MAX_BYTES) -> TokenTable:
    """All tokens that any of `vocabularies` has, as far as `max_bytes` of a page hold them. Raises as `align` does."""
    union = align(vocabularies, at_least=1)
    ids = np.stack([union.ids_with_gaps(name) for name in union.names])  # (K, U)
    owners, lengths = (ids >= 0).sum(axis=0), pc.binary_length(union.tokens).to_numpy()
    order = np.lexsort((lengths, -owners))
    while True:
        rows = np.sort(order)
        table = TokenTable(
            names=tuple(union.names),
            tokens=tuple(taken(union.tokens, rows).to_pylist()),
            ids=ids[:, rows],
            aliases=tuple(map(_aliases, vocabularies, ids[:, rows])),
            left_out=len(union) - len(rows),
        )
        size = len(pack(table_data(table)))
        if size <= max_bytes or not len(rows):
            return table
        order = order[: int(0.97 * len(rows) * max_bytes / size)]


def _aliases(vocabulary: Vocabulary, own: np.ndarray) -> dict[int, list[int]]:
    others = vocabulary.aliases()
    return {row: others[int(own[row])] for row in np.flatnonzero(np.isin(own, list(others))).tolist()}


def table_data(table: TokenTable) -> dict[str, Any]:
    """What tokens.js reads. Of an id stands its distance to the id of the row before that has one; 0 where there is
    none: columns of tokenizers of one family are almost all 1 then.
    """
    columns = []
    for own in table.ids.astype(np.int64):
        steps, there = np.zeros(len(own), np.int64), own >= 0
        steps[there] = np.diff(own[there], prepend=-1)
        columns.append(steps.tolist())
    return {
        "names": table.names,
        "tokens": [spelled(token) for token in table.tokens],
        "ids": columns,
        "aliases": table.aliases,
    }


def sorts(table: TokenTable) -> list[tuple[str, str, int]]:
    """What a table can be narrowed to: key for tokens.js, words, and number of tokens."""
    has = table.ids >= 0
    owners = has.sum(axis=0)
    every = len(table.names)
    aliased = {row for rows in table.aliases for row in rows}
    found = [("all", "all tokens", len(table.tokens)), ("shared", "shared by all", int((owners == every).sum()))]
    found += [
        (f"only:{at}", f"only in {name}", int((has[at] & (owners == 1)).sum())) for at, name in enumerate(table.names)
    ]
    if every > 2:
        found += [
            (f"lacks:{at}", f"only {name} lacks", int((~has[at] & (owners == every - 1)).sum()))
            for at, name in enumerate(table.names)
        ]
    return [*found, ("aliased", "several ids", len(aliased))]
