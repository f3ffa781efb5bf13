"""verify: whether a shared vocabulary is right about its tokenizers, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vocabkit.arrow.values import take, token_buffers
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

MAX_LISTED = 10
"""Wrong rows that are described per tokenizer."""


def verify(shared: SharedVocabulary, vocabularies: Mapping[str, Vocabulary]) -> list[str]:
    """What is wrong with a shared vocabulary against its tokenizers, given by name; [] if nothing is.

    Each row must hold the canonical id of its bytes (or of its role) in each tokenizer, null only where the tokenizer
    has none. Each line names a tokenizer and a row, and what its id is; at most `MAX_LISTED` per tokenizer.

    Raises VocabkitError: a tokenizer is not given.
    """
    problems: list[str] = []
    for info in shared.tokenizers:
        if info.name not in vocabularies:
            raise VocabkitError(f"tokenizer {info.name} of this shared vocabulary is not given")
        vocabulary = vocabularies[info.name]
        if vocabulary.fingerprint != info.fingerprint:
            problems.append(
                f"{info.name}: the file was built with another version of this tokenizer "
                f"({info.fingerprint[:19]}…, now {vocabulary.fingerprint[:19]}…)"
            )
        problems += _described(shared, info.name, vocabulary)
    return problems + _repeated_rows(shared)


def wrong_rows(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> np.ndarray:
    """(W,) rows whose id in column `name` is not the one that `vocabulary` has for their token or role, ascending."""
    recorded = shared.ids_with_gaps(name)
    if _all_are(shared, vocabulary, recorded):
        return np.empty(0, np.int64)
    return np.flatnonzero(shared.look_up(vocabulary) != recorded)


def _all_are(shared: SharedVocabulary, vocabulary: Vocabulary, ids: np.ndarray) -> bool:
    """Whether `shared.look_up(vocabulary)` is `ids`, (R,) int32, none of them -1: told without looking tokens up."""
    if not len(ids) or ids.min() < 0 or ids.max() >= len(vocabulary):
        return False
    rows = np.flatnonzero(np.diff(token_buffers(shared.tokens)[0]))  # the empty ones stand for roles
    return (
        all(vocabulary.roles.get(role) == ids[row] for role, row in shared.roles.items())
        and vocabulary.alignable[ids[rows]].all()
        and take(vocabulary.tokens, ids[rows]).equals(take(shared.tokens, rows))
    )


def _described(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> list[str]:
    wrong = wrong_rows(shared, name, vocabulary)
    if not len(wrong):
        return []
    expected, found = shared.look_up(vocabulary), shared.ids_with_gaps(name)
    role_of = {row: role for role, row in shared.roles.items()}
    lines = []
    for row in wrong[:MAX_LISTED].tolist():
        what = f"role {role_of[row]}" if row in role_of else repr(shared.tokens[row].as_py())
        lines.append(f"{name}: row {row} is {what}, {_difference(vocabulary, int(expected[row]), int(found[row]))}")
    if len(wrong) > MAX_LISTED:
        lines.append(f"{name}: and {len(wrong) - MAX_LISTED} more rows")
    return lines


def _difference(vocabulary: Vocabulary, expected: int, found: int) -> str:
    right = "which this tokenizer lacks" if expected < 0 else f"which is id {expected}"
    if found < 0:
        return f"{right}, but the file has none"
    if found >= len(vocabulary):
        return f"{right}, but the file has id {found}, beyond the tokenizer's {len(vocabulary)} ids"
    kind = Kind(int(vocabulary.kinds[found])).name.lower()
    alias = ", an alias of it" if vocabulary.canonical[found] == expected else ""
    return f"{right}, but the file has id {found} ({kind} {vocabulary.token(found)!r}{alias})"


def _repeated_rows(shared: SharedVocabulary) -> list[str]:
    first: dict[bytes, int] = {}
    repeated = [
        (row, token)
        for row, token in enumerate(shared.tokens.to_pylist())
        if token and first.setdefault(token, row) != row
    ]
    lines = [f"rows {first[token]} and {row} are both {token!r}" for row, token in repeated[:MAX_LISTED]]
    if len(repeated) > MAX_LISTED:
        lines.append(f"and {len(repeated) - MAX_LISTED} more rows repeat a token")
    return lines
