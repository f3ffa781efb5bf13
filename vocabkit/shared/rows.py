"""Rows of a shared vocabulary, found by number, by token or by what they contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary


@dataclass(frozen=True)
class Row:
    """One row: a token, or the role of a special token, with its id in every tokenizer."""

    row: int
    token: bytes
    """Empty for a role."""
    role: str | None
    count: int | None
    """How often it occurs in the corpus that the rows were ranked by."""
    ids: dict[str, int | None]
    """Name of a tokenizer -> id; None where it lacks the token."""


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
    numbers = np.asarray(rows, np.int64)
    role_of = {row: role for role, row in shared.roles.items()}
    columns = {name: shared.ids_with_gaps(name)[numbers].tolist() for name in shared.names}
    tokens = shared.tokens.take(numbers).to_pylist()
    counts = None if shared.counts is None else shared.counts[numbers].tolist()
    return [
        Row(
            row=row,
            token=tokens[at],
            role=role_of.get(row),
            count=None if counts is None else counts[at],
            ids={name: None if ids[at] < 0 else ids[at] for name, ids in columns.items()},
        )
        for at, row in enumerate(numbers.tolist())
    ]
