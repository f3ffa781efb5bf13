"""verify: check a shared vocabulary against its tokenizers, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from vocabkit.arrow.arrow_file import take, token_buffers
from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.special_tokens import with_roles
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

MAX_LISTED = 10
"""Maximum number of wrong rows described per tokenizer."""


@dataclass(frozen=True)
class Verdict:
    """Result of `verify`."""

    problems: tuple[str, ...]
    """Descriptions of wrong rows, at most `MAX_LISTED` per tokenizer. Empty if every row is right."""
    notes: tuple[str, ...]
    """Differences that leave the rows right: another version of a tokenizer, rows that hold an alias."""

    @property
    def passed(self) -> bool:
        """Whether every row is right."""
        return not self.problems


def verify(shared: SharedVocabulary, vocabularies: Mapping[str, Vocabulary]) -> Verdict:
    """Check each row of a shared vocabulary against its tokenizers, given by name.

    A row is right if its id has the row's bytes (or its role), and if it is null only where the tokenizer has no such
    token. The row of a word is right if its ids are what encode gives for it, and join to its bytes. Any other
    difference between the tokenizer and the one it was built with is a note.

    Raises VocabkitError: a tokenizer is missing or, for words, its source doesn't say how it cuts text.
    """
    problems: list[str] = []
    notes: list[str] = []
    for info in shared.tokenizers:
        if info.name not in vocabularies:
            raise VocabkitError(f"tokenizer {info.name} of this shared vocabulary is not given")
        vocabulary = vocabularies[info.name]
        with suppress(VocabkitError):  # without them, the rows of these roles are wrong
            vocabulary = with_roles(vocabulary, info.given_roles or {})
        wrong = (_described_words if shared.of_words else _described)(shared, info.name, vocabulary)
        problems += wrong
        if vocabulary.fingerprint != info.fingerprint:
            what = "so its rows differ" if wrong else "in which all rows are also right"
            notes.append(
                f"{info.name}: built with another version of this tokenizer ({info.fingerprint[:19]}…, now "
                f"{vocabulary.fingerprint[:19]}…), {what}"
            )
        notes += [] if shared.of_words else _aliases(shared, info.name, vocabulary)
    return Verdict((*problems, *_repeated_rows(shared)), tuple(notes))


def wrong_rows(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> np.ndarray:
    """Return rows whose ids in column `name` have other bytes, or another role, in `vocabulary`: (W,), ascending.

    Other ids that contribute the bytes of the row, such as an alias, aren't wrong.
    """
    if shared.of_words:
        return np.flatnonzero(~_spell_their_words(shared, name, vocabulary))
    recorded = shared.ids_with_gaps(name)
    if _all_are(shared, vocabulary, recorded):
        return np.empty(0, np.int64)
    differing = np.flatnonzero(shared.look_up(vocabulary) != recorded)
    wrong: np.ndarray = differing[~_have_their_bytes(shared, vocabulary, differing, recorded[differing])]
    return wrong


def _spell_their_words(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> np.ndarray:
    """Mark rows whose ids join to the row's bytes: (R,) bool. Rows that the column lacks count as well."""
    found = shared.spellings(name)
    known = (found.ids >= 0) & (found.ids < len(vocabulary))
    safe = np.where(known, found.ids, 0)
    text = known & (vocabulary.kinds[safe] <= Kind.BYTE)
    values = [value or b"" for value in take(vocabulary.tokens, safe).to_pylist()]
    bounds, right = found.offsets.tolist(), text.tolist()
    return np.array(
        [
            start == end or (all(right[start:end]) and b"".join(values[start:end]) == word)
            for start, end, word in zip(bounds, bounds[1:], shared.tokens.to_pylist(), strict=False)
        ],
        bool,
    )


def _have_their_bytes(
    shared: SharedVocabulary, vocabulary: Vocabulary, rows: np.ndarray, ids: np.ndarray
) -> np.ndarray:
    """Mark ids[i] that contribute the bytes of row rows[i] to text: (W,) bool."""
    known = (ids >= 0) & (ids < len(vocabulary))
    safe = np.where(known, ids, 0)
    tokens = zip(take(vocabulary.tokens, safe).to_pylist(), take(shared.tokens, rows).to_pylist(), strict=True)
    same = np.fromiter((bool(own) and own == token for own, token in tokens), bool, len(rows))
    found: np.ndarray = known & same & (vocabulary.kinds[safe] <= Kind.BYTE)
    return found


def _aliases(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> list[str]:
    ids = shared.ids_with_gaps(name)
    known = (ids >= 0) & (ids < len(vocabulary))
    rows = np.flatnonzero(known & (vocabulary.canonical[np.where(known, ids, 0)] != ids))
    if not len(rows):
        return []
    row = int(rows[0])
    return [
        f"{name}: {len(rows):,} rows hold an id of the right bytes that encode does not give, such as row {row} "
        f"{shared.tokens[row].as_py()!r}: {ids[row]}, where encode gives {vocabulary.canonical[ids[row]]}"
    ]


def _all_are(shared: SharedVocabulary, vocabulary: Vocabulary, ids: np.ndarray) -> bool:
    """Whether all `ids`, (R,) int32, have the bytes of their rows; fast, because no token is looked up."""
    if not len(ids) or ids.min() < 0 or ids.max() >= len(vocabulary):
        return False
    rows = np.flatnonzero(np.diff(token_buffers(shared.tokens)[0]))  # the empty ones stand for roles
    return (
        all(vocabulary.role_id(role) == ids[row] for role, row in shared.roles.items())
        and (vocabulary.kinds[ids[rows]] <= Kind.BYTE).all()
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


def _described_words(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> list[str]:
    expected, found = shared.spell(vocabulary).lists(), shared.spellings(name).lists()
    wrong = [row for row, ids in enumerate(found) if ids != expected[row]]
    lines = [
        f"{name}: row {row} is {shared.tokens[row].as_py()!r}, for which encode gives {expected[row] or 'no ids'}, but "
        f"the file has {found[row] or 'none'}"
        for row in wrong[:MAX_LISTED]
    ]
    return lines + ([f"{name}: and {len(wrong) - MAX_LISTED} more rows"] if len(wrong) > MAX_LISTED else [])


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


def other_ids(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> str | None:
    """Say how `vocabulary` differs from the tokenizer of column `name`; None if all ids are the same."""
    wrong = wrong_rows(shared, name, vocabulary)
    if not len(wrong):
        return None
    token = quote(shared.tokens[int(wrong[0])].as_py().decode("utf-8", "backslashreplace"))
    return (
        f"its tokenizer has other ids than {name} has in the shared vocabulary for {len(wrong)} of {len(shared)} "
        f"tokens, the first is {token}"
    )
