"""Snapshots: every vocabulary round-trips, and an inconsistent file raises."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import (
    BYTE_LEVEL,
    REAL,
    added_token,
    alphabet_spelling,
    bpe_json,
    every,
    read_json_tokenizer,
    real,
    unigram_json,
    wordpiece_json,
)

from vocabkit.arrow.arrow_file import read_table, write_table
from vocabkit.errors import VocabkitError
from vocabkit.tokenizer import snapshot
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import load_rules, to_tokenizers
from vocabkit.tokenizer.snapshot import Provenance
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, make_vocabulary

PROVENANCE = Provenance("tokenizer.json", "0" * 64, "some-package", "1.2", "MIT")
TEXT = "Two  naïve\n\tcats — ⅔ of 12 días, 猫が好き 😀 <think>a</think>"


def written(folder: Path, vocabulary: Vocabulary) -> Path:
    """Path of a snapshot of `vocabulary`."""
    path = folder / "snapshot.arrow"
    snapshot.write(path, vocabulary, PROVENANCE)
    return path


def assert_same(found: Vocabulary, expected: Vocabulary) -> None:
    """All that a snapshot keeps is equal."""
    assert found.tokens.equals(expected.tokens)
    np.testing.assert_array_equal(found.kinds, expected.kinds)
    np.testing.assert_array_equal(found.canonical, expected.canonical)
    assert found.roles == expected.roles
    assert found.fingerprint == expected.fingerprint
    assert (found.embedding_rows, found.width) == (expected.embedding_rows, expected.width)
    assert (found.name, found.notes) == (expected.name, expected.notes)
    assert (found.segmentation is None) == (load_rules(expected) is None)


@pytest.mark.parametrize("name", [every(name) for name in REAL])
@pytest.mark.usefixtures("sources")
def test_real_vocabulary_round_trips(name: str, tmp_path: Path) -> None:
    found, expected = read(written(tmp_path, real(name))), real(name)
    assert_same(found, expected)
    assert found.source == "some-package 1.2"
    if found.segmentation is not None:
        cut, recut = (to_tokenizers(each).encode(TEXT, add_special_tokens=False) for each in (expected, found))
        assert recut.ids == cut.ids


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    """Any vocabulary that a reader could make."""
    tokens = draw(st.lists(st.none() | st.binary(max_size=4), min_size=1, max_size=12))
    kinds = [draw(st.sampled_from([Kind.TEXT, Kind.SPECIAL, Kind.UNUSED, Kind.BYTE])) for _ in tokens]
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == Kind.BYTE and (token is None or len(token) != 1):
            kinds[i] = Kind.TEXT
    ids = st.integers(0, len(tokens) - 1)
    sizes = st.none() | st.integers(1, 1 << 40)
    return make_vocabulary(
        name=draw(names),
        source="built",
        tokens=tokens,
        kinds=np.array(kinds, np.uint8),
        precedence=np.array([draw(st.integers(0, 3)) for _ in tokens]),
        roles=draw(st.dictionaries(names, ids, max_size=4)),
        embedding_rows=draw(sizes),
        width=draw(sizes),
        notes=tuple(draw(st.lists(names, max_size=2))),
    )


@given(vocabulary=vocabularies())
@settings(deadline=None, max_examples=60)
def test_any_vocabulary_round_trips(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.arrow"
    snapshot.write(path, vocabulary, PROVENANCE)
    assert_same(read(path), vocabulary)
    assert read(path, "renamed").name == "renamed"


# ---- segmentation ------------------------------------------------------------------------------------------------


def test_merges_keep_their_order(tmp_path: Path) -> None:
    """Two merges make `abc`; a merge of another piece stands between them."""
    merges = [["a", "b"], ["ab", "c"], ["c", "d"], ["b", "c"], ["a", "bc"]]
    content = bpe_json(["a", "b", "c", "d", "ab", "abc", "cd", "bc"], merges=merges)
    vocabulary = read_json_tokenizer(tmp_path, {**content, "pre_tokenizer": BYTE_LEVEL})
    rules = load_rules(read(written(tmp_path, vocabulary)))
    assert rules is not None
    assert rules.merges is not None
    spelled = vocabulary.tokens.to_pylist()
    assert [[spelled[i].decode() for i in pair] for pair in rules.merges.tolist()] == merges


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_flags_of_added_tokens_round_trip(flag: str, tmp_path: Path) -> None:
    letters = [alphabet_spelling(bytes([byte])) for byte in range(256)]
    added = [added_token(256, "<Y>"), added_token(257, "<X>") | {flag: True}]
    content = bpe_json([*letters], added=added)
    content |= {"pre_tokenizer": BYTE_LEVEL, "normalizer": {"type": "Lowercase"}}
    vocabulary = read_json_tokenizer(tmp_path, content)
    kept = to_tokenizers(read(written(tmp_path, vocabulary)))
    for text in ("a <X> b", "a<X>b", "a <x> b", "<Y><x>"):
        assert kept.encode(text).ids == to_tokenizers(vocabulary).encode(text).ids


@pytest.mark.parametrize(
    "content",
    [
        wordpiece_json(["[UNK]", "a", "##b"]),
        bpe_json(["a", "b</w>", "ab</w>"], {"type": "BPEDecoder", "suffix": "</w>"}, end_of_word_suffix="</w>"),
        bpe_json(["a", "##b", "ab"], merges=[["a", "##b"]], continuing_subword_prefix="##"),
        unigram_json(["a ", "b"]),
    ],
    ids=["wordpiece", "end-of-word", "continuing-prefix", "space-in-a-piece"],
)
def test_unsupported_rules_are_left_out(content: Mapping[str, Any], tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, content)
    found = read(written(tmp_path, vocabulary))
    assert_same(found, vocabulary)
    with pytest.raises(VocabkitError, match="does not say how text is cut into tokens"):
        to_tokenizers(found)


# ---- files that lie ----------------------------------------------------------------------------------------------

GOOD = make_vocabulary(
    name="good",
    source="built",
    tokens=[b"a", b"a", b"<s>", None, b"\n"],
    kinds=np.array([Kind.TEXT, Kind.TEXT, Kind.SPECIAL, Kind.UNUSED, Kind.BYTE], np.uint8),
    roles={"bos": 2},
)


def rewritten(
    path: Path,
    metadata: Mapping[str, str | None],
    columns: Mapping[str, pa.Array | None],
    fingerprint: str | None = None,
) -> Path:
    """The snapshot of `GOOD` with other metadata (None: without it) and columns, its checksum right again."""
    snapshot.write(path, GOOD, PROVENANCE)
    table, old = read_table(path, "vocabulary")
    entries = {**old, **({"fingerprint": fingerprint} if fingerprint else {}), **metadata}
    arrays = {**dict(zip(table.column_names, table.columns, strict=True)), **columns}
    kept = pa.table({name: array for name, array in arrays.items() if array is not None})
    write_table(path, kept, {key: value for key, value in entries.items() if value is not None}, "zstd")
    return path


def refusal(path: Path) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(VocabkitError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 250
    return message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *itertools.product(
            ["roles"], ["[]", "null", '{"bos":"2"}', '{"bos":2.0}', '{"bos":true}', '{"bos":null}', "{"]
        ),
        ("roles", r'{"\ud800":2}'),
        *itertools.product(
            ["model"],
            [
                "[]",
                "{}",
                '{"embedding_rows":"5","width":null}',
                '{"embedding_rows":5.5,"width":null}',
                '{"embedding_rows":-5,"width":null}',
                '{"embedding_rows":null,"width":0}',
                '{"embedding_rows":null}',
            ],
        ),
        *itertools.product(["notes"], ["null", "[1]", '"text"', '{"a":1}']),
        *itertools.product(["provenance"], ["[]", "{}", '{"file":"f"}', '{"file":1,"sha256":"0"}', "null"]),
        *itertools.product(["rules"], ["[]", "{}", '{"model":"wordpiece"}', "1"]),
    ],
)
def test_metadata_of_another_type_raises(key: str, value: str, tmp_path: Path) -> None:
    assert f"metadata vocabkit.{key} is not as expected" in refusal(rewritten(tmp_path / "x.arrow", {key: value}, {}))


@pytest.mark.parametrize("key", ["roles", "model", "notes", "provenance", "rules"])
def test_missing_metadata_raises(key: str, tmp_path: Path) -> None:
    assert f"metadata vocabkit.{key} is not as expected" in refusal(rewritten(tmp_path / "x.arrow", {key: None}, {}))


@pytest.mark.parametrize(
    "columns",
    [
        {"kind": None},
        {"alias_of": None},
        {"token": None},
        {"token": pa.array(["a", "a", "<s>", None, "\n"])},
        {"kind": pa.array([0, 0, 2, 3, 1], pa.int32())},
        {"alias_of": pa.array([None, 0, None, None, None], pa.int64())},
    ],
)
def test_columns_of_another_type_raise(columns: dict[str, Any], tmp_path: Path) -> None:
    assert "has no column" in refusal(rewritten(tmp_path / "x.arrow", {}, columns))


def test_snapshot_without_tokens_raises(tmp_path: Path) -> None:
    types = {"token": pa.binary(), "kind": pa.uint8(), "alias_of": pa.int32()}
    columns = {name: pa.array([], data_type) for name, data_type in types.items()}
    assert "contradict each other" in refusal(rewritten(tmp_path / "x.arrow", {}, columns))


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": [0, 0, 2, 3, 9]},
        {"kinds": [0, 0, 2, 0, 1]},
        {"kinds": [0, 0, 1, 3, 1]},
        {"canonical": [0, 99, 2, 3, 4]},
        {"canonical": [0, -7, 2, 3, 4]},
        {"canonical": [1, 0, 2, 3, 4]},
        {"canonical": [0, 0, 2, 3, 0]},
        {"roles": {"bos": 5}},
        {"roles": {"bos": -1}},
    ],
    ids=str,
)
def test_inconsistent_ids_raise_despite_right_fingerprint(changes: dict[str, Any], tmp_path: Path) -> None:
    kinds = np.array(changes.get("kinds", GOOD.kinds), np.uint8)
    canonical = np.array(changes.get("canonical", GOOD.canonical), np.int32)
    roles = changes.get("roles", dict(GOOD.roles))
    lie = Vocabulary("good", "built", GOOD.tokens, kinds, canonical, MappingProxyType(roles))
    alias_of = pa.array(canonical, pa.int32(), mask=canonical == np.arange(5))
    columns = {"kind": pa.array(kinds), "alias_of": alias_of}
    path = rewritten(tmp_path / "x.arrow", {"roles": json.dumps(roles)}, columns, lie.fingerprint)
    assert "its columns contradict each other" in refusal(path)


def test_null_kind_raises(tmp_path: Path) -> None:
    columns = {"kind": pa.array([0, None, 2, 3, 1], pa.uint8())}
    assert "its columns contradict each other" in refusal(rewritten(tmp_path / "x.arrow", {}, columns))


def test_content_not_matching_fingerprint_raises(tmp_path: Path) -> None:
    columns = {"token": pa.array([b"b", b"b", b"<s>", None, b"\n"])}
    assert "does not match its fingerprint" in refusal(rewritten(tmp_path / "x.arrow", {}, columns))


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 0x20
        path.write_bytes(flipped)
        with pytest.raises(VocabkitError):
            read(path)


def test_newer_format_asks_for_newer_vocabkit(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x.arrow", {"format": "vocabulary/2"}, {})
    assert "reads format 1. Upgrade" in refusal(path)


RULES: dict[str, Any] = {
    "model": "bpe", "spelling": "byte-level", "unk": None, "normalizer": None, "pre_tokenizer": BYTE_LEVEL,
    "options": {}, "added": {},
}  # fmt: skip
PRIORITY = pa.array([0, 1, None, None, 2], pa.float32())


def merges(first: list[int]) -> pa.Array:
    """A column with merges that the first token is the left of."""
    return pa.array([first, [], [], [], []], pa.list_(pa.int32()))


def test_rules_that_fit_their_vocabulary_are_used(tmp_path: Path) -> None:
    columns = {"priority": PRIORITY, "merges": merges([])}
    vocabulary = read(rewritten(tmp_path / "x.arrow", {"rules": json.dumps(RULES)}, columns))
    assert to_tokenizers(vocabulary).encode("aa\n").ids == [0, 0, 4]


@pytest.mark.parametrize(
    ("rules", "columns"),
    [
        ({}, {}),
        ({}, {"priority": PRIORITY.cast(pa.int32())}),
        ({"normalizer": {}}, {"priority": PRIORITY}),
        ({"normalizer": {"type": "Nothing"}}, {"priority": PRIORITY}),
        ({"pre_tokenizer": {"type": "Sequence"}}, {"priority": PRIORITY}),
        ({"options": {"dropout": "all"}}, {"priority": PRIORITY}),
        ({}, {"priority": PRIORITY, "merges": merges([99, 0])}),
        ({}, {"priority": PRIORITY, "merges": merges([1])}),
        ({"model": "unigram"}, {"priority": pa.array([None] * 5, pa.float32())}),
    ],
)
def test_damaged_rules_raise_when_they_are_used(
    rules: dict[str, Any], columns: dict[str, pa.Array], tmp_path: Path
) -> None:
    vocabulary = read(rewritten(tmp_path / "x.arrow", {"rules": json.dumps(RULES | rules)}, columns))
    assert vocabulary.fingerprint == GOOD.fingerprint
    with pytest.raises(VocabkitError) as error:
        to_tokenizers(vocabulary, mid_text=True)
    assert str(error.value).isprintable()
