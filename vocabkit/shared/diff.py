"""Diff: what changed between two versions of a tokenizer, such as a base model's and its chat model's, id by id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vocabkit.arrow.arrow_file import validity
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary


@dataclass(frozen=True)
class ChangedId:
    """An id that differs. `None` where a tokenizer has no token under it."""

    id: int
    before: bytes | None
    """Its bytes in the first tokenizer, or its spelling if it is special or unused."""
    after: bytes | None
    kind_before: str | None
    """text, byte, special or unused."""
    kind_after: str | None


@dataclass(frozen=True)
class Diff:
    """The differences between tokenizers A and B."""

    before: str
    after: str
    """Their names."""
    size_before: int
    size_after: int
    equal_below: int
    """All ids below this one have the same bytes, kind and canonical id in both."""
    added: tuple[ChangedId, ...]
    """Ids with a token in B only."""
    removed: tuple[ChangedId, ...]
    """Ids with a token in A only."""
    renamed: tuple[ChangedId, ...]
    """Ids with other bytes, or another spelling."""
    reflagged: tuple[ChangedId, ...]
    """Ids with the same bytes and another kind."""
    roles: dict[str, tuple[int | None, int | None]]
    """Role -> its id in A and in B, for the roles that differ."""

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.renamed or self.reflagged or self.roles)


def diff(before: Vocabulary, after: Vocabulary) -> Diff:
    """Compare two tokenizers id by id, ids ascending."""
    size = max(len(before), len(after))
    tokens = [_padded(vocabulary, size) for vocabulary in (before, after)]
    kinds = [_padded_kinds(vocabulary, size) for vocabulary in (before, after)]
    has = [np.array([token is not None for token in each]) for each in tokens]
    same_bytes = np.fromiter((a == b for a, b in zip(*tokens, strict=True)), bool, size)
    same_kind = kinds[0] == kinds[1]
    common = min(len(before), len(after))
    same_canonical = np.zeros(size, bool)
    same_canonical[:common] = before.canonical[:common] == after.canonical[:common]

    def changed(ids: np.ndarray) -> tuple[ChangedId, ...]:
        return tuple(
            ChangedId(i, tokens[0][i], tokens[1][i], _kind(kinds[0][i]), _kind(kinds[1][i]))
            for i in np.flatnonzero(ids).tolist()
        )

    unequal = np.flatnonzero(~(same_bytes & same_kind & same_canonical))
    roles = {
        role: (before.roles.get(role), after.roles.get(role))
        for role in sorted(before.roles.keys() | after.roles.keys())
        if before.roles.get(role) != after.roles.get(role)
    }
    return Diff(
        before=before.name,
        after=after.name,
        size_before=len(before),
        size_after=len(after),
        equal_below=int(unequal[0]) if len(unequal) else size,
        added=changed(~has[0] & has[1]),
        removed=changed(has[0] & ~has[1]),
        renamed=changed(has[0] & has[1] & ~same_bytes),
        reflagged=changed(has[0] & has[1] & same_bytes & ~same_kind),
        roles=roles,
    )


def _padded(vocabulary: Vocabulary, size: int) -> list[bytes | None]:
    tokens: list[bytes | None] = vocabulary.tokens.to_pylist()
    return tokens + [None] * (size - len(tokens))


def _padded_kinds(vocabulary: Vocabulary, size: int) -> np.ndarray:
    kinds = np.full(size, -1, np.int16)
    kinds[: len(vocabulary)] = np.where(validity(vocabulary.tokens), vocabulary.kinds.astype(np.int16), -1)
    return kinds


def _kind(kind: np.int16) -> str | None:
    return None if kind < 0 else Kind(int(kind)).name.lower()
