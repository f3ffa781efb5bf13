"""Vocabulary: ids mean bytes, one id is canonical for them, and fingerprints tell vocabularies apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import (
    FAVOURITES,
    Drawn,
    Entry,
    chat_vocabulary,
    precedence_of,
    refusal,
    text_vocabulary,
    vocabularies,
)

from vocabkit.tokenizer.vocabulary import MAX_TOKENS, Kind, Vocabulary, make_vocabulary

generated = settings(deadline=None, max_examples=100)


def made(*entries: tuple[bytes | None, Kind, bool], **options: Any) -> Vocabulary:
    """A vocabulary of (token, kind, added)."""
    tokens, kinds, _ = zip(*entries, strict=True)
    return make_vocabulary(
        name="v",
        source="v.json",
        tokens=tokens,
        kinds=np.array(kinds, np.uint8),
        precedence=precedence_of([Entry(*entry) for entry in entries]),
        **options,
    )


# ---- one id of several -------------------------------------------------------------------------------------------


def test_added_token_comes_before_piece_and_that_before_byte_piece() -> None:
    added, byte, own = (b"x", Kind.TEXT, True), (b"x", Kind.BYTE, False), (b"x", Kind.TEXT, False)
    assert made(own, byte, added).canonical.tolist() == [2, 2, 2]
    assert made(byte, own).canonical.tolist() == [1, 1]
    assert made(byte, own, own).canonical.tolist() == [1, 1, 1]
    assert made(added, added).canonical.tolist() == [0, 0]


def test_special_and_unused_tokens_never_alias_text() -> None:
    v = made((b"<s>", Kind.SPECIAL, True), (b"<s>", Kind.TEXT, False), (b"<s>", Kind.UNUSED, False))
    assert v.canonical.tolist() == [0, 1, 2]
    assert v.aliases() == {}
    assert v.alignable.tolist() == [False, True, False]


def test_aliases_are_listed_under_canonical_id() -> None:
    v = made((b"x", Kind.TEXT, True), (b"y", Kind.TEXT, False), (b"x", Kind.BYTE, False), (b"x", Kind.TEXT, False))
    assert v.aliases() == {0: [2, 3]}


@generated
@given(vocabularies())
def test_canonical_id_has_same_bytes_and_is_its_own(drawn: Drawn) -> None:
    v, ids = drawn.vocabulary, drawn.ids()
    for token_id, entry in enumerate(drawn.entries):
        canonical = int(v.canonical[token_id])
        assert v.token(canonical) == v.token(token_id)
        assert v.canonical[canonical] == canonical
        if entry.kind in (Kind.TEXT, Kind.BYTE) and entry.token:
            assert canonical == ids[entry.token]
    assert np.flatnonzero(v.alignable).tolist() == list(ids.values())
    assert sum(map(len, v.aliases().values())) == int((v.canonical != np.arange(len(v))).sum())


@generated
@given(vocabularies(), st.lists(st.sampled_from(FAVOURITES) | st.binary(max_size=3)))
def test_bytes_are_looked_up_by_what_they_contribute_to_text(drawn: Drawn, tokens: list[bytes]) -> None:
    found = drawn.vocabulary.ids_of(pa.array(tokens, pa.binary()))
    assert found.dtype == np.int32
    assert found.tolist() == [drawn.ids().get(token, -1) for token in tokens]


# ---- ids ---------------------------------------------------------------------------------------------------------


def test_hole_is_unused() -> None:
    v = made((b"x", Kind.TEXT, False), (None, Kind.TEXT, False), (None, Kind.SPECIAL, False))
    assert (len(v), v.token(1)) == (3, None)
    assert v.kinds.tolist() == [Kind.TEXT, Kind.UNUSED, Kind.UNUSED]


def test_empty_token_contributes_nothing_and_is_not_aligned() -> None:
    v = made((b"", Kind.TEXT, False), (b"x", Kind.TEXT, False))
    assert v.alignable.tolist() == [False, True]
    assert v.token(0) == b""


@pytest.mark.parametrize("token_id", [-1, 2])
def test_id_out_of_range_raises(token_id: int) -> None:
    with pytest.raises(IndexError, match=r"outside 0\.\.1 of v"):
        made((b"x", Kind.TEXT, False), (b"y", Kind.TEXT, False)).token(token_id)


def test_vocabulary_is_immutable() -> None:
    v = chat_vocabulary("v", b"x")
    renamed = dataclasses.replace(v, name="w")
    for vocabulary in (v, renamed):
        with pytest.raises(ValueError, match="read-only"):
            vocabulary.kinds[0] = Kind.UNUSED
        with pytest.raises(ValueError, match="read-only"):
            vocabulary.canonical[0] = 1
        with pytest.raises(TypeError):
            vocabulary.roles["bos"] = 0  # type: ignore[index]
        with pytest.raises(dataclasses.FrozenInstanceError):
            vocabulary.name = "other"  # type: ignore[misc]


def test_vocabulary_copies_its_inputs() -> None:
    kinds, roles = np.zeros(1, np.uint8), {"bos": 0}
    v = make_vocabulary(name="v", source="v", tokens=[b"x"], kinds=kinds, roles=roles)
    kinds[0], roles["bos"] = Kind.SPECIAL, 5
    assert (v.kinds.tolist(), dict(v.roles)) == ([Kind.TEXT], {"bos": 0})


def test_no_or_too_many_tokens_raise() -> None:
    assert refusal(text_vocabulary, "v") == f"v.json: 0 tokens; a vocabulary has 1 to {MAX_TOKENS}"
    many = pa.nulls(MAX_TOKENS + 1, pa.binary())
    none = np.zeros(0, np.uint8)
    assert "a vocabulary has 1 to" in refusal(make_vocabulary, name="v", source="v", tokens=many, kinds=none)


# ---- fingerprints ------------------------------------------------------------------------------------------------


@generated
@given(vocabularies(), st.integers(0, 3))
def test_equal_vocabularies_have_one_fingerprint_wherever_their_arrays_come_from(drawn: Drawn, before: int) -> None:
    v = drawn.vocabulary
    padded = pa.array([b"before"] * before + v.tokens.to_pylist(), pa.binary()).slice(before)
    twin = make_vocabulary(
        name="other",
        source="elsewhere",
        tokens=padded,
        kinds=v.kinds.copy(),
        precedence=precedence_of(drawn.entries),
        roles=dict(reversed(v.roles.items())),
        width=8,
        notes=("lossy",),
    )
    assert twin.fingerprint == v.fingerprint


BASE = ((b"x", Kind.TEXT, False), (b"x", Kind.TEXT, True), (b"<s>", Kind.SPECIAL, True), (None, Kind.UNUSED, False))
OTHERS = {
    "token": ((b"y", Kind.TEXT, False), *BASE[1:]),
    "kind": (*BASE[:2], (b"<s>", Kind.UNUSED, True), BASE[3]),
    "alias": ((b"x", Kind.TEXT, True), (b"x", Kind.TEXT, False), *BASE[2:]),
    "order": (BASE[2], *BASE[:2], BASE[3]),
    "length": (*BASE, (None, Kind.UNUSED, False)),
    "empty token for a hole": (*BASE[:3], (b"", Kind.UNUSED, False)),
    "bytes moved to the neighbour": ((b"xx", Kind.TEXT, False), (b"", Kind.TEXT, True), *BASE[2:]),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_vocabularies_that_differ_have_different_fingerprints(difference: str) -> None:
    assert made(*OTHERS[difference]).fingerprint != made(*BASE).fingerprint


def test_roles_are_part_of_fingerprint() -> None:
    prints = {made(*BASE, roles=roles).fingerprint for roles in ({}, {"bos": 2}, {"eos": 2}, {"bos": 2, "eos": 2})}
    assert len(prints) == 4
