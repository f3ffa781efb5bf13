"""align: which rows, in which order, with which ids, for 2 to 50 tokenizers."""

from __future__ import annotations

import base64
import dataclasses
import itertools
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import bpe_json, read_json_tokenizer
from vocabularies import Drawn, chat_vocabulary, content, expected_rows, groups, refusal, text_vocabulary

from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

generated = settings(deadline=None, max_examples=60)


def of(group: list[Drawn]) -> list[Vocabulary]:
    """The vocabularies of a generated group."""
    return [drawn.vocabulary for drawn in group]


# ---- which rows --------------------------------------------------------------------------------------------------


def test_intersection_has_tokens_of_all_in_order_of_first() -> None:
    a, b = text_vocabulary("a", b"x", b"y", b"z"), text_vocabulary("b", b"z", b"w", b"x")
    shared = align([a, b])
    assert shared.tokens.to_pylist() == [b"x", b"z"]
    assert shared.ids_for("a").tolist() == [0, 2]
    assert shared.ids_for("b").tolist() == [2, 0]
    assert (shared.selection.at_least, shared.selection.order) == (2, "id:a")


def test_union_has_every_token_with_null_where_tokenizer_lacks_it() -> None:
    a, b, c = text_vocabulary("a", b"x", b"y"), text_vocabulary("b", b"z", b"y"), text_vocabulary("c", b"w", b"z")
    union = align([a, b, c], at_least=1)
    assert union.tokens.to_pylist() == [b"x", b"y", b"z", b"w"]
    assert union.table["id:a"].to_pylist() == [0, 1, None, None]
    assert union.table["id:b"].to_pylist() == [None, 1, 0, None]
    assert union.table["id:c"].to_pylist() == [None, None, 1, 0]


def test_at_least_two_of_three_keeps_what_two_have() -> None:
    a, b, c = text_vocabulary("a", b"x", b"y"), text_vocabulary("b", b"z", b"y"), text_vocabulary("c", b"w", b"z")
    shared = align([a, b, c], at_least=2)
    assert shared.tokens.to_pylist() == [b"y", b"z"]
    assert content(shared) == {b"y": {"a": 1, "b": 1}, b"z": {"b": 0, "c": 1}}
    assert (shared.selection.at_least, shared.selection.order) == (2, "id:a")


def test_fifty_tokenizers_can_be_aligned() -> None:
    vocabularies = [text_vocabulary(f"t{i}", b"own%d" % i, *[b"x"] * (i % 2), b"y") for i in range(50)]
    shared = align(vocabularies)
    assert shared.tokens.to_pylist() == [b"y"]
    assert [int(shared.ids_for(f"t{i}")[0]) for i in range(50)] == [1 + i % 2 for i in range(50)]
    assert len(align(vocabularies, at_least=1)) == 50 + 2
    assert align(vocabularies, at_least=25).tokens.to_pylist() == [b"y", b"x"]


@generated
@given(groups(), st.data())
def test_rows_are_complete_and_unique(group: list[Drawn], data: st.DataObject) -> None:
    at_least = data.draw(st.integers(1, len(group)), label="at_least")
    shared = align(of(group), at_least=at_least)
    expected = expected_rows(group, at_least)
    assert shared.tokens.to_pylist() == [token for token, _ in expected]
    for name in shared.names:
        assert shared.table[f"id:{name}"].to_pylist() == [ids.get(name) for _, ids in expected]


@generated
@given(groups())
def test_ids_of_row_decode_to_its_bytes_in_each_tokenizer(group: list[Drawn]) -> None:
    shared = align(of(group), at_least=1)
    for drawn in group:
        vocabulary = drawn.vocabulary
        rows = shared.only_with(vocabulary.name)
        for token, token_id in zip(rows.tokens.to_pylist(), rows.ids_for(vocabulary.name).tolist(), strict=True):
            assert vocabulary.token(token_id) == token
            assert vocabulary.kinds[token_id] in (Kind.TEXT, Kind.BYTE)
            assert vocabulary.canonical[token_id] == token_id


# ---- laws --------------------------------------------------------------------------------------------------------


@generated
@given(groups(most=2))
def test_intersection_is_symmetric(group: list[Drawn]) -> None:
    a, b = of(group)
    assert content(align([a, b], special_roles=True)) == content(align([b, a], special_roles=True))


@generated
@given(groups(), st.data())
def test_tokenizer_order_changes_only_row_order(group: list[Drawn], data: st.DataObject) -> None:
    at_least = data.draw(st.integers(1, len(group)), label="at_least")
    shuffled = data.draw(st.permutations(group), label="order")
    one, other = (align(of(order), at_least=at_least, special_roles=True) for order in (group, shuffled))
    assert content(one) == content(other)
    assert other.tokens.to_pylist()[: len(other) - len(other.roles)] == [
        t for t, _ in expected_rows(shuffled, at_least)
    ]


@generated
@given(groups(least=3))
def test_intersection_of_many_is_intersection_of_intersections(group: list[Drawn]) -> None:
    first, *others = of(group)
    pairs = [content(align([first, other], special_roles=True)) for other in others]
    keys = set.intersection(*(set(pair) for pair in pairs))
    joined = {key: {name: token_id for pair in pairs for name, token_id in pair[key].items()} for key in keys}
    assert content(align([first, *others], special_roles=True)) == joined


@generated
@given(groups())
def test_higher_at_least_keeps_subset_of_rows(group: list[Drawn]) -> None:
    kept = [content(align(of(group), at_least=k, special_roles=True)) for k in range(1, len(group) + 1)]
    for fewer, more in itertools.pairwise(kept):
        assert more.items() <= fewer.items()
    assert kept[-1] == content(align(of(group), special_roles=True))
    assert set(kept[0]) == {token for drawn in group for token in (*drawn.ids(), *drawn.vocabulary.roles)}


# ---- special tokens ----------------------------------------------------------------------------------------------


def test_special_tokens_never_match_by_their_spelling() -> None:
    a, b = chat_vocabulary("a", b"x"), chat_vocabulary("b", b"x", b"<bos>")
    assert align([a, b]).tokens.to_pylist() == [b"x"]
    assert align([a, b], at_least=1).table["id:b"].to_pylist() == [0, 1]
    assert content(align([a, b], at_least=1))[b"<bos>"] == {"b": 1}


def test_special_tokens_match_by_role_when_asked_after_text_rows_sorted_by_role() -> None:
    a = chat_vocabulary("a", b"x", b"y", roles=("turn_end", "bos", "eos"))
    b = chat_vocabulary("b", b"y", roles=("pad", "bos", "turn_end"))
    shared = align([a, b], special_roles=True)
    assert shared.roles == {"bos": 1, "turn_end": 2}
    assert shared.tokens.to_pylist() == [b"y", b"", b""]
    assert shared.ids_for("a").tolist() == [1, 3, 2]
    assert shared.ids_for("b").tolist() == [0, 2, 3]
    assert align([a, b]).roles == {}


def test_rare_role_has_no_row_and_gaps_in_union() -> None:
    a, b = chat_vocabulary("a", b"x", roles=("bos",)), chat_vocabulary("b", b"x", roles=("eos",))
    assert align([a, b], special_roles=True).roles == {}
    union = align([a, b], at_least=1, special_roles=True)
    assert content(union) == {b"x": {"a": 0, "b": 0}, "bos": {"a": 1}, "eos": {"b": 1}}


@generated
@given(groups(), st.data())
def test_special_roles_only_add_rows(group: list[Drawn], data: st.DataObject) -> None:
    at_least = data.draw(st.integers(1, len(group)), label="at_least")
    without = align(of(group), at_least=at_least)
    shared = align(of(group), at_least=at_least, special_roles=True)
    assert shared.table.slice(0, len(without)).equals(without.table)
    having = {role: [v for v in of(group) if role in v.roles] for v in of(group) for role in v.roles}
    expected = sorted(role for role, some in having.items() if len(some) >= at_least)
    assert list(shared.roles.items()) == [(role, len(without) + i) for i, role in enumerate(expected)]
    rows = content(shared)
    for role in expected:
        assert rows[role] == {v.name: v.roles[role] for v in having[role]}


# ---- tokens that encode produces ---------------------------------------------------------------------------------


def test_reachable_leaves_out_what_tokenizer_never_produces(tmp_path: Path) -> None:
    both = []
    for name, merges in (("one", [["a", "b"]]), ("two", [["a", "b"], ["b", "c"]])):
        content = bpe_json(["a", "b", "c", "ab", "bc"])
        content["model"]["merges"] = merges
        (tmp_path / name).mkdir()
        both.append(dataclasses.replace(read_json_tokenizer(tmp_path / name, content), name=name))
    everything, trained = align(both), align(both, reachable=True)
    assert set(everything) - set(trained) == {b"bc"}
    assert everything.selection.unreachable is None
    assert trained.selection.unreachable == 1
    trained.save(tmp_path / "trained.arrow")
    assert open_shared(tmp_path / "trained.arrow").selection == trained.selection


def test_reachable_needs_rules_for_cutting_text() -> None:
    both = [text_vocabulary("a", b"x"), text_vocabulary("b", b"x")]
    assert "does not say how text is cut" in refusal(align, both, reachable=True)


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 51])
def test_fewer_than_two_and_more_than_fifty_tokenizers_raise(count: int) -> None:
    vocabularies = [text_vocabulary(f"t{i}", b"x") for i in range(count)]
    assert f"{count} tokenizer{'' if count == 1 else 's'} given; align takes 2 to 50" in refusal(align, vocabularies)


def test_two_tokenizers_of_one_name_raise() -> None:
    vocabularies = [text_vocabulary(name, b"x") for name in ("qwen", "llama", "qwen", "phi", "llama", "b", "b")]
    assert refusal(align, vocabularies[:3]).startswith("qwen given twice; ")
    assert refusal(align, vocabularies).startswith("b, llama, qwen given twice; ")


@pytest.mark.parametrize("name", ["", "two\nlines", "\x1b[31m", "half \udc80"])
def test_invalid_name_raises(name: str) -> None:
    assert "can't name a tokenizer" in refusal(align, [text_vocabulary(name, b"x"), text_vocabulary("b", b"x")])


@pytest.mark.parametrize("at_least", [-1, 0, 3])
def test_at_least_out_of_range_raises(at_least: int) -> None:
    vocabularies = [text_vocabulary("a", b"x"), text_vocabulary("b", b"x")]
    assert f"`at_least` is {at_least} for 2 tokenizers; choose 1 to 2" in refusal(
        align, vocabularies, at_least=at_least
    )


def test_at_least_of_another_type_raises() -> None:
    with pytest.raises(TypeError, match="`at_least` is str; expected a whole number"):
        align([text_vocabulary("a", b"x"), text_vocabulary("b", b"x")], at_least="2")  # type: ignore[arg-type]


@pytest.mark.parametrize("special_roles", [False, True])
def test_tokenizers_that_share_no_text_raise(special_roles: bool) -> None:
    a, b = chat_vocabulary("a", b"x", b""), chat_vocabulary("b", b"y", b"")
    assert "a, b share no text token" in refusal(align, [a, b], special_roles=special_roles)


# ---- real tokenizers ---------------------------------------------------------------------------------------------


@cache
def real(*names: str) -> SharedVocabulary:
    """The intersection of tokenizers of the catalog."""
    return align([resolve(name).vocabulary for name in names])


def test_qwen2_5_and_llama3_share_109566_tokens_of_which_977_are_not_valid_utf_8() -> None:
    shared = real("qwen2.5", "llama3")
    assert len(shared) == 109_566
    assert shared.table["text"].null_count == 977


def test_qwen2_5_and_gemma3_share_95968_tokens() -> None:
    assert len(real("qwen2.5", "gemma3")) == 95_968


def test_qwen_and_llama3_share_what_their_publishers_rank_files_share(sources: Path) -> None:
    files = ("dashscope/resources/qwen.tiktoken", "llama_models/llama3/tokenizer.model")
    ranks = []
    for file in files:
        lines = map(bytes.split, (sources / file).read_bytes().splitlines())
        ranks.append({base64.b64decode(token): int(rank) for token, rank in lines})
    expected = {
        token: {"qwen2.5": ranks[0][token], "llama3": ranks[1][token]} for token in ranks[0] if token in ranks[1]
    }
    assert content(real("qwen2.5", "llama3")) == expected


@pytest.mark.parametrize("names", [("qwen2.5", "llama3"), ("qwen2.5", "gemma3"), ("smollm2", "gemma3", "llama4")])
def test_real_rows_decode_to_their_bytes_in_each_tokenizer_through_canonical_ids(names: tuple[str, ...]) -> None:
    shared = real(*names)
    for name in names:
        vocabulary, ids = resolve(name).vocabulary, shared.ids_for(name)
        values = vocabulary.tokens.to_pylist()
        assert [values[i] for i in ids.tolist()] == shared.tokens.to_pylist()
        assert (vocabulary.canonical[ids] == ids).all()
        assert (vocabulary.kinds[ids] <= Kind.BYTE).all()
    assert (shared.ids_for(names[0])[1:] > shared.ids_for(names[0])[:-1]).all()
