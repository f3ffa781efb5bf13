"""Generated and small vocabularies, what to expect of them worked out the slow way, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.vocabulary import Kind, Precedence, Vocabulary, make_vocabulary

ROLES = ("bos", "eos", "pad", "turn_end")
FAVOURITES = (
    b"", b"a", b"b", b"ab", b" a", b" ", b"\n", b"\x00", b"<s>", b"</s>", b"<0x0A>", "▁".encode(), "é".encode(),
    b"\xc3", b"\xa9", b"\xff", b"\xed\xa0\x80", "😀".encode(), "\u202e".encode(), b"id:a",
)  # fmt: skip
"""Tokens that a generated vocabulary is likely to have: spellings of special tokens, and invalid UTF-8 among them."""


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line that `call` is refused with."""
    with pytest.raises(VocabkitError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


# ---- small ones --------------------------------------------------------------------------------------------------


def text_vocabulary(name: str, *tokens: bytes | None, **options: Any) -> Vocabulary:
    """A vocabulary of text pieces, None for a hole."""
    kinds = np.full(len(tokens), Kind.TEXT, np.uint8)
    return make_vocabulary(name=name, source=f"{name}.json", tokens=tokens, kinds=kinds, **options)


def chat_vocabulary(name: str, *tokens: bytes, roles: Sequence[str] = ("bos", "eos")) -> Vocabulary:
    """Text pieces, then one special token `<role>` for each role."""
    spelled = [f"<{role}>".encode() for role in roles]
    kinds = np.array([Kind.TEXT] * len(tokens) + [Kind.SPECIAL] * len(roles), np.uint8)
    ids = {role: len(tokens) + i for i, role in enumerate(roles)}
    return make_vocabulary(name=name, source=f"{name}.json", tokens=[*tokens, *spelled], kinds=kinds, roles=ids)


# ---- generated ones ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What a tokenizer file says of one id."""

    token: bytes | None
    kind: Kind
    added: bool


def precedence_of(entries: Sequence[Entry]) -> np.ndarray:
    """What readers make of such entries."""
    return np.array(
        [
            Precedence.ADDED if entry.added else Precedence.BYTE if entry.kind == Kind.BYTE else Precedence.PIECE
            for entry in entries
        ]
    )


@dataclass(frozen=True)
class Drawn:
    """A generated vocabulary, and what it was made of."""

    vocabulary: Vocabulary
    entries: tuple[Entry, ...]

    def ids(self) -> dict[bytes, int]:
        """Bytes -> the id that stands for them, in id order, by the rule as people would say it."""
        found: dict[bytes, tuple[int, int]] = {}
        for token_id, entry in enumerate(self.entries):
            if entry.kind in (Kind.TEXT, Kind.BYTE) and entry.token:
                precedence = 0 if entry.added else 2 if entry.kind == Kind.BYTE else 1
                found[entry.token] = min(found.get(entry.token, (9, 0)), (precedence, token_id))
        rows = self.vocabulary.embedding_rows or len(self.entries)
        with_row = ((token, i) for token, (_, i) in found.items() if i < rows)
        return dict(sorted(with_row, key=lambda item: item[1]))


_TOKENS = st.sampled_from(FAVOURITES) | st.binary(max_size=3)
_ENTRIES = st.one_of(
    st.builds(Entry, _TOKENS, st.just(Kind.TEXT), st.booleans()),
    st.builds(Entry, st.binary(min_size=1, max_size=1), st.just(Kind.BYTE), st.just(False)),
    st.builds(Entry, _TOKENS, st.just(Kind.SPECIAL), st.booleans()),
    st.builds(Entry, _TOKENS, st.just(Kind.UNUSED), st.booleans()),
    st.just(Entry(None, Kind.UNUSED, False)),
)


@st.composite
def vocabularies(draw: st.DrawFn, name: str = "a") -> Drawn:
    """A vocabulary with aliases, holes, byte pieces, special tokens, empty tokens, invalid UTF-8 and roles."""
    entries = tuple(draw(st.lists(_ENTRIES, min_size=1, max_size=30)))
    special = [i for i, entry in enumerate(entries) if entry.kind == Kind.SPECIAL]
    roles = draw(st.dictionaries(st.sampled_from(ROLES), st.sampled_from(special))) if special else {}
    vocabulary = make_vocabulary(
        name=name,
        source=f"{name}.json",
        tokens=[entry.token for entry in entries],
        kinds=np.array([entry.kind for entry in entries], np.uint8),
        precedence=precedence_of(entries),
        roles=roles,
        embedding_rows=draw(st.none() | st.integers(len(entries), 2**40)),
    )
    return Drawn(vocabulary, entries)


@st.composite
def groups(draw: st.DrawFn, least: int = 2, most: int = 5) -> list[Drawn]:
    """Several vocabularies with names of their own, all of them with the token `a`."""
    names = "abcdefgh"[: draw(st.integers(least, most))]
    group = [draw(vocabularies(name)) for name in names]
    return [with_token(drawn, b"a") for drawn in group]


def with_token(drawn: Drawn, token: bytes) -> Drawn:
    """The same vocabulary with a text piece at its end, so that an alignment has something to share."""
    v = drawn.vocabulary
    entries = (*drawn.entries, Entry(token, Kind.TEXT, False))
    vocabulary = make_vocabulary(
        name=v.name,
        source=v.source,
        tokens=[entry.token for entry in entries],
        kinds=np.array([entry.kind for entry in entries], np.uint8),
        precedence=precedence_of(entries),
        roles=v.roles,
        embedding_rows=None if v.embedding_rows is None else max(v.embedding_rows, len(entries)),
    )
    return Drawn(vocabulary, entries)


# ---- what a shared vocabulary says -------------------------------------------------------------------------------


def content(shared: SharedVocabulary) -> dict[bytes | str, dict[str, int]]:
    """Token or role -> name of a tokenizer -> id, for those that have it. Independent of the order of rows."""
    role_of = {row: role for role, row in shared.roles.items()}
    columns = {name: shared.table[f"id:{name}"].to_pylist() for name in shared.names}
    keys = [role_of.get(row, token) for row, token in enumerate(shared.tokens.to_pylist())]
    assert len(set(keys)) == len(keys), "a row is there twice"
    return {
        key: {name: ids[row] for name, ids in columns.items() if ids[row] is not None} for row, key in enumerate(keys)
    }


def expected_rows(group: Sequence[Drawn], at_least: int) -> list[tuple[bytes, dict[str, int]]]:
    """Every token that at least so many have, in the declared order: by a loop over everything."""
    ids = {drawn.vocabulary.name: drawn.ids() for drawn in group}
    rows: dict[bytes, dict[str, int]] = {}
    for own in ids.values():
        for token in own:
            rows[token] = {name: other[token] for name, other in ids.items() if token in other}
    return [(token, found) for token, found in rows.items() if len(found) >= at_least]


def by_name(group: Sequence[Drawn]) -> Mapping[str, Vocabulary]:
    """Name -> vocabulary."""
    return {drawn.vocabulary.name: drawn.vocabulary for drawn in group}
