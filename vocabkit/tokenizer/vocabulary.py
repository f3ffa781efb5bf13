"""Vocabulary: what the token ids of one tokenizer mean, as bytes."""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import binary_array, token_buffers, validity
from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer.rules import Rules

MAX_TOKENS = 1 << 24
"""Largest id accepted. No tokenizer comes near it; a file that claims more is damaged or hostile."""


def check_highest_id(where: str | Path, highest: int, count: int) -> None:
    """Raises VocabkitError if `count` tokens can't have the id `highest`: a few bytes of a damaged or hostile file must
    not make gigabytes of holes.
    """
    limit = min(MAX_TOKENS, 2 * count + 65536) - 1
    if highest > limit:
        raise VocabkitError(f"{where}: id {quote(str(highest))} with {count} tokens; expected ids up to {limit}")


class Kind(enum.IntEnum):
    """What an id is for."""

    TEXT = 0
    """Contributes its bytes to decoded text."""
    BYTE = 1
    """A byte-fallback piece such as `<0x0A>`: contributes exactly one byte."""
    SPECIAL = 2
    """Control token. It has a role, not a text, and is never matched by its spelling."""
    UNUSED = 3
    """Reserved, or a hole in the id range."""


class Precedence(enum.IntEnum):
    """Which of several ids with the same bytes encode gives, first to last."""

    ADDED = 0
    """An added token: it is cut out of the text before the model sees it."""
    PIECE = 1
    BYTE = 2
    """A byte-fallback piece: only for characters without a piece."""
    UNREACHED = 3
    """A spelling that encode never produces: its embedding row is untrained."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """id -> token bytes for one tokenizer. V ids, numbered from 0. Immutable; build it with `make_vocabulary`.

    Two tokens are the same if they contribute the same bytes to decoded text. How a file spells those bytes
    (`Ġ`, `▁`, `<0xNN>`, `##`) is known to its reader only.
    """

    name: str
    source: str
    """What was read, without machine-specific paths: file name, or package and version."""
    tokens: pa.Array
    """(V,) binary. Text and byte tokens: their bytes in decoded text. Special and unused: their spelling, as
    UTF-8. Null: the id has no token."""
    kinds: np.ndarray
    """(V,) uint8, values of `Kind`."""
    canonical: np.ndarray
    """(V,) int32. The id that stands for this id's bytes: itself, or another id when this one is an alias."""
    roles: Mapping[str, int]
    """Role of a special token (`bos`, `eos`, `turn_end`, ...) -> id. One id may have several roles."""
    embedding_rows: int | None = None
    """Rows of the model's embedding table, when known. May exceed V (padding rows)."""
    width: int | None = None
    """Width of the model's embedding table, when known."""
    notes: tuple[str, ...] = ()
    """What a user must know about this tokenizer, for example that it is lossy."""
    segmentation: Path | bytes | Callable[[], Rules] | None = None
    """How to cut text into these tokens: a tokenizer.json or its bytes, or a function that loads the rules."""
    given_roles: Mapping[str, str] | None = None
    """Role -> spelling, of roles that its user gave (see `special_tokens.with_roles`)."""
    origin: str | None = None
    """Where it is found again: a path relative to the current folder, or `hub:` and a hub id."""

    def __post_init__(self) -> None:
        for part in (self.kinds, self.canonical):
            part.flags.writeable = False

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({self.name!r}, {len(self):,} ids)"

    @property
    def alignable(self) -> np.ndarray:
        """(V,) bool. What an alignment may match: canonical ids that contribute at least one byte to text and, if the
        size of the embedding table is known, have a row in it.
        """
        lengths = np.diff(token_buffers(self.tokens)[0])
        ids = np.arange(len(self))
        mask: np.ndarray = (self.kinds <= Kind.BYTE) & (lengths > 0) & (self.canonical == ids)
        return mask & (ids < self.embedding_rows) if self.embedding_rows is not None else mask

    def token(self, token_id: int) -> bytes | None:
        """Bytes of one id (see `tokens`). Raises IndexError outside 0..V-1."""
        if not 0 <= token_id < len(self):
            raise IndexError(f"token id {token_id} is outside 0..{len(self) - 1} of {self.name}")
        value = self.tokens[token_id].as_py()
        return value if value is None else bytes(value)

    def ids_of(self, tokens: pa.Array) -> np.ndarray:
        """(R,) int32: the canonical id that contributes each of `tokens`, (R,) binary, to text; -1 where none does."""
        alignable = self.alignable
        own = itertools.compress(self.tokens.to_pylist(), alignable.tolist())
        ids = dict(zip(own, np.flatnonzero(alignable).tolist(), strict=True))
        return np.fromiter(map(ids.get, tokens.to_pylist(), itertools.repeat(-1)), np.int32, len(tokens))

    def role_id(self, role: str) -> int:
        """The id of a role; -1 where there is none, or it has no row in the embedding table."""
        token_id = self.roles.get(role, -1)
        return -1 if self.embedding_rows is not None and token_id >= self.embedding_rows else token_id

    def aliases(self) -> dict[int, list[int]]:
        """Canonical id -> the other ids that spell the same bytes, lowest first."""
        others = np.flatnonzero(self.canonical != np.arange(len(self), dtype=np.int32))
        result: dict[int, list[int]] = {}
        for alias in others.tolist():
            result.setdefault(int(self.canonical[alias]), []).append(alias)
        return result

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over tokens, kinds, aliases and roles: equal for equal vocabularies, whatever file they came
        from. Does not cover the name, the source or the model's embedding table.
        """
        digest = hashlib.sha256(b"vocabkit vocabulary 1\n")
        offsets, data = token_buffers(self.tokens)
        lengths = np.where(validity(self.tokens), np.diff(offsets), -1)
        for part in (lengths.astype("<i4"), data, self.kinds.astype("u1"), self.canonical.astype("<i4")):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
        for role, token_id in sorted(self.roles.items()):
            digest.update(f"{role}={token_id}\n".encode())
        return "sha256:" + digest.hexdigest()


def make_vocabulary(
    *,
    name: str,
    source: str,
    tokens: Sequence[bytes | None] | pa.Array,
    kinds: np.ndarray,
    precedence: np.ndarray | None = None,
    roles: Mapping[str, int] | None = None,
    embedding_rows: int | None = None,
    width: int | None = None,
    notes: tuple[str, ...] = (),
    segmentation: Path | bytes | Callable[[], Rules] | None = None,
) -> Vocabulary:
    """A Vocabulary with its aliases resolved.

    Where several ids contribute the same bytes, the canonical one is the id that encode gives, since only its
    embedding row was trained.

    Args:
        tokens: (V,) bytes per id, None for holes.
        kinds: (V,) uint8.
        precedence: (V,) of `Precedence`: which of several ids with the same bytes encode gives. By default a piece
            goes before a byte-fallback piece. Of equals the lowest id is taken.

    Raises:
        VocabkitError: no tokens at all, or more than `MAX_TOKENS`.
    """
    array = tokens if isinstance(tokens, pa.Array) else binary_array(tokens)
    if not 0 < len(array) <= MAX_TOKENS:
        raise VocabkitError(f"{source}: {len(array)} tokens; a vocabulary has 1 to {MAX_TOKENS}")
    kinds = np.where(validity(array), kinds, np.uint8(Kind.UNUSED)).astype(np.uint8)
    canonical = _canonical_ids(array, kinds, kinds + 1 if precedence is None else precedence)
    if embedding_rows is not None and (rowless := int((kinds[embedding_rows:] < Kind.UNUSED).sum())):
        beyond = f"{rowless:,} ids have no row in the embedding table ({embedding_rows:,} rows) and are never shared"
        notes = tuple(dict.fromkeys([*notes, beyond]))
    return Vocabulary(
        name=name,
        source=source,
        tokens=array,
        kinds=kinds,
        canonical=canonical,
        roles=MappingProxyType(dict(roles or {})),
        embedding_rows=embedding_rows,
        width=width,
        notes=notes,
        segmentation=segmentation,
    )


def _canonical_ids(tokens: pa.Array, kinds: np.ndarray, precedence: np.ndarray) -> np.ndarray:
    canonical = np.arange(len(tokens), dtype=np.int32)
    ids = np.flatnonzero(kinds <= Kind.BYTE).tolist()
    values = list(itertools.compress(tokens.to_pylist(), (kinds <= Kind.BYTE).tolist()))
    last = dict(zip(values, ids, strict=True))
    if len(last) == len(values):
        return canonical
    repeated = {value for value, i in zip(values, ids, strict=True) if last[value] != i}
    best: dict[bytes, int] = {}
    groups = [(i, value) for value, i in zip(values, ids, strict=True) if value in repeated]
    for i, value in groups:
        if value not in best or precedence[i] < precedence[best[value]]:
            best[value] = i
    for i, value in groups:
        canonical[i] = best[value]
    return canonical
