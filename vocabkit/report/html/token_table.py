"""Every token of several tokenizers, for a table that can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vocabkit.alignment import align
from vocabkit.arrow_values import taken
from vocabkit.report.html.page import spelled
from vocabkit.vocabulary import Vocabulary

MAX_CELLS = 1_200_000
"""Tokens times tokenizers of a table: some five megabytes of page."""


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
    """Tokens that are not in the table: those that the fewest tokenizers have."""


def token_table(vocabularies: Sequence[Vocabulary], *, max_cells: int = MAX_CELLS) -> TokenTable:
    """All tokens that any of `vocabularies` has, as far as `max_cells` ids hold them. Raises as `align` does."""
    union = align(vocabularies, at_least=1)
    ids = np.stack([union.ids_with_gaps(name) for name in union.names])  # (K, U)
    rows = np.argsort(-(ids >= 0).sum(axis=0), kind="stable")[: max_cells // len(ids)]
    rows.sort()
    ids = ids[:, rows]
    aliases = []
    for vocabulary, own in zip(vocabularies, ids, strict=True):
        others = vocabulary.aliases()
        found = np.flatnonzero(np.isin(own, list(others)))
        aliases.append({row: others[int(own[row])] for row in found.tolist()})
    return TokenTable(
        names=tuple(union.names),
        tokens=tuple(taken(union.tokens, rows).to_pylist()),
        ids=ids,
        aliases=tuple(aliases),
        left_out=len(union) - len(rows),
    )


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
