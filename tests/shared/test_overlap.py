"""overlap: what vocabularies have in common."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_map_files import refusal, small
from tokenizer_files import bpe_json, read_json_tokenizer

from vocabkit.shared.align import align
from vocabkit.shared.overlap import Alias, Overlap, RoleToken, Row, Spelled, Unreachable, overlap
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmenter import Piece
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

TEXT, BYTE, SPECIAL, UNUSED = Kind.TEXT, Kind.BYTE, Kind.SPECIAL, Kind.UNUSED


@pytest.fixture
def three() -> list[Vocabulary]:
    return [
        small([b"a", b"b", b" c", b"\xff", b"<eos>", b"<x>"], [TEXT] * 4 + [SPECIAL] * 2, name="a", roles={"eos": 4}),
        small([b"b", b"a", b"\xff", b"a", "щ".encode()], [TEXT, TEXT, BYTE, TEXT, TEXT], name="b"),
        small(
            [b"</s>", b"a", "щ".encode(), b" c", None],
            [SPECIAL, TEXT, TEXT, TEXT, UNUSED],
            name="c",
            roles={"bos": 0, "eos": 0},
        ),
    ]


def test_numbers_of_three_small_vocabularies(three: list[Vocabulary]) -> None:
    found = overlap(three)
    assert [s.name for s in found.tokenizers] == ["a", "b", "c"]
    assert [s.size for s in found.tokenizers] == [6, 5, 5]
    assert [s.distinct for s in found.tokenizers] == [4, 4, 3]
    assert [s.partial_utf8 for s in found.tokenizers] == [1, 1, 0]
    assert [s.in_no_other for s in found.tokenizers] == [0, 0, 0]
    assert [s.aliases for s in found.tokenizers] == [0, 1, 0]
    assert found.tokenizers[0].kinds == {"text": 4, "byte": 0, "special": 2, "unused": 0}
    assert found.tokenizers[2].kinds == {"text": 3, "byte": 0, "special": 1, "unused": 1}
    assert (found.shared_by_all, found.shared_by_all_partial_utf8, found.union) == (1, 0, 5)


def test_matrices_have_row_and_column_for_each_tokenizer(three: list[Vocabulary]) -> None:
    found = overlap(three)
    assert found.shared.tolist() == [[4, 3, 2], [3, 4, 2], [2, 2, 3]]
    assert found.coverage.tolist() == [[1, 3 / 4, 2 / 4], [3 / 4, 1, 2 / 4], [2 / 3, 2 / 3, 1]]
    assert found.jaccard.tolist() == [[1, 3 / 5, 2 / 5], [3 / 5, 1, 2 / 5], [2 / 5, 2 / 5, 1]]
    assert found.mass is None


def test_classes_add_up_to_tokens(three: list[Vocabulary]) -> None:
    found = overlap(three)
    assert found.by_kind == (Row("text", (4, 3, 3), 1), Row("byte", (0, 1, 0), 0))
    assert found.by_script == (
        Row("Latin", (3, 2, 2), 1),
        Row("Cyrillic", (0, 1, 1), 0),
        Row("partial UTF-8", (1, 1, 0), 0),
    )
    assert [row for row in found.by_length if any(row.distinct)] == [Row("1", (3, 3, 1), 1), Row("2", (1, 1, 2), 0)]


def test_tokens_that_a_tokenizer_lacks_are_not_of_the_kind_of_its_last_id() -> None:
    found = overlap([small([b"a", b"b"], name="a"), small([b"a", b"\xff"], [TEXT, BYTE], name="b")])
    assert found.by_kind == (Row("text", (2, 1), 1), Row("byte", (0, 1), 0))


def test_what_one_tokenizer_lacks_is_what_all_others_have(three: list[Vocabulary]) -> None:
    lacks = [summary.lacks for summary in overlap(three).tokenizers]
    assert [lacking.count for lacking in lacks] == [1, 1, 2]
    assert [[example.token for example in lacking.examples] for lacking in lacks] == [
        ["щ".encode()],
        [b" c"],
        [b"b", b"\xff"],
    ]
    assert lacks[0].examples[0].pieces is None  # nothing says how these are cut


def test_aliases_list_canonical_id_first(three: list[Vocabulary]) -> None:
    assert overlap(three).tokenizers[1].alias_examples == (Alias(b"a", (1, 3)),)


def test_roles_show_who_lacks_them_and_special_tokens_without_one_are_named(three: list[Vocabulary]) -> None:
    found = overlap(three)
    assert {role.role: role.tokens for role in found.roles} == {
        "bos": (None, None, RoleToken(0, "</s>")),
        "eos": (RoleToken(4, "<eos>"), None, RoleToken(0, "</s>")),
    }
    assert [summary.special_without_role for summary in found.tokenizers] == [("<x>",), (), ()]


def test_corpus_gives_coverage_by_mass(three: list[Vocabulary]) -> None:
    counts = {
        "a": np.array([5, 1, 2, 0, 2, 0]),
        "b": np.array([1, 4, 0, 0, 5]),
        "c": np.zeros(5, np.int64),
    }
    found = overlap(three, counts=counts)
    assert found.mass is not None
    np.testing.assert_allclose(found.mass, [[0.8, 0.6, 0.7], [0.5, 1.0, 0.9], [0, 0, 0]])
    assert [s.mass_shared_by_all for s in found.tokenizers] == [0.5, 0.4, 0.0]


def test_vocabulary_without_text_has_zero_coverage() -> None:
    empty = small([b"<s>"], [SPECIAL], name="empty")
    found = overlap([small([b"a"], name="a"), empty], counts={"a": np.array([0]), "empty": np.array([0])})
    assert found.coverage.tolist() == [[1, 0], [0, 0]]
    assert found.jaccard.tolist() == [[1, 0], [0, 0]]
    assert found.mass is not None
    assert found.mass.tolist() == [[0, 0], [0, 0]]


def test_examples_limit_every_list(three: list[Vocabulary]) -> None:
    for summary in overlap(three, examples=0).tokenizers:
        assert summary.lacks.examples == summary.alias_examples == ()
    assert overlap(three, examples=0).tokenizers[2].lacks.count == 2


def test_unreachable_tokens_are_counted_and_shown_with_what_comes_instead(tmp_path: Path) -> None:
    content = bpe_json(["a", "b", "ab", "ba"])
    content["model"]["merges"] = [["a", "b"]]
    first = dataclasses.replace(read_json_tokenizer(tmp_path, content), name="first")
    lacking = small([b"a", b"ab"], name="second")
    assert overlap([first, lacking], reachability=False).tokenizers[0].unreachable is None
    for other, shared in (([b"ab"], 0), ([b"ba"], 1)):
        (tmp_path / "other").mkdir(exist_ok=True)
        pieces = [token.decode() for token in other]
        second = read_json_tokenizer(tmp_path / "other", bpe_json(["a", "b", *pieces]))
        unreachable = overlap([first, second]).tokenizers[0].unreachable
        assert unreachable == Unreachable(1, shared, (Spelled(b"ba", (Piece(1, b"b"), Piece(0, b"a"))),))


def test_quick_reachability_is_counted_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    large, lacking = resolve("smollm2").vocabulary, small([b"a", b"ab"], name="second")
    counted = [summary.unreachable is not None for summary in overlap([large, lacking]).tokenizers]
    assert counted == [True, False]
    monkeypatch.setattr("vocabkit.shared.overlap.QUICK_IDS", 100)
    assert overlap([large, lacking]).tokenizers[0].unreachable is None


def test_inputs_invalid_for_align_raise(three: list[Vocabulary]) -> None:
    assert "align takes 2 to 50" in refusal(overlap, three[:1])
    assert "given twice" in refusal(overlap, [three[0], three[0]])
    assert "does not say how text is cut" in refusal(overlap, three, reachability=True)


# ---- any vocabularies --------------------------------------------------------------------------------------------

tokens = st.lists(st.sampled_from([b"a", b"b", b" c", b"\xff", "щ".encode(), b"12", b"\n", b"abcde"]), max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.lists(tokens.map(lambda some: [*some, b"z"]), min_size=2, max_size=5))
def test_numbers_agree_with_sets(contents: list[list[bytes]]) -> None:
    found = overlap([small(content, name=f"v{i}") for i, content in enumerate(contents)])
    sets = [set(content) for content in contents]
    assert found.shared_by_all == len(set.intersection(*sets))
    assert found.union == len(set.union(*sets))
    for (i, a), (j, b) in itertools.product(enumerate(sets), repeat=2):
        assert found.shared[i, j] == len(a & b)
        assert found.coverage[i, j] == len(a & b) / len(a)
        assert found.jaccard[i, j] == len(a & b) / len(a | b)
    for at, summary in enumerate(found.tokenizers):
        others = sets[:at] + sets[at + 1 :]
        assert summary.in_no_other == len(sets[at] - set.union(*others))
        assert summary.lacks.count == len(set.intersection(*others) - sets[at])
        assert {example.token for example in summary.lacks.examples} <= set.intersection(*others) - sets[at]
    for breakdown in (found.by_kind, found.by_script, found.by_length):
        assert np.sum([row.distinct for row in breakdown], axis=0).tolist() == list(map(len, sets))
        assert sum(row.shared_by_all for row in breakdown) == found.shared_by_all


# ---- real tokenizers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Overlap:
    return overlap([resolve(name).vocabulary for name in ("qwen2.5", "llama3", "gemma3")], examples=20)


def test_shared_tokens_of_real_tokenizers(real: Overlap) -> None:
    assert real.shared[0].tolist()[1:] == [109_566, 95_968]
    vocabularies = [resolve(name).vocabulary for name in ("qwen2.5", "llama3", "gemma3")]
    assert real.shared_by_all == len(align(vocabularies))
    assert real.shared_by_all == sum(row.shared_by_all for row in real.by_script)
    qwen, llama, gemma = real.tokenizers
    assert (qwen.partial_utf8, llama.partial_utf8) == (1_448, 1_352)
    assert gemma.aliases == 110
    assert round(float(real.coverage[1, 0]), 3) == 0.856


def test_real_tokenizers_spell_what_they_lack_with_their_own_tokens(real: Overlap) -> None:
    spelled = 0
    for summary in real.tokenizers:
        vocabulary = resolve(summary.name).vocabulary
        assert len(summary.lacks.examples) == 20
        for example in summary.lacks.examples:
            if example.pieces is not None:
                assert len(example.pieces) > 1
                assert b"".join(piece.token for piece in example.pieces) == example.token
                assert all(vocabulary.token(piece.id) == piece.token for piece in example.pieces)
                spelled += 1
    assert spelled > 50
