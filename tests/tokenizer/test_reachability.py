"""Tokens that encoding never produces."""

from __future__ import annotations

from pathlib import Path

import pytest
from index_map_files import refusal, small
from tokenizer_files import bpe_json, read_json_tokenizer, wordpiece_json

from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmentation import to_tokenizers
from vocabkit.tokenizer.segmenter import unreachable


def test_token_not_produced_from_its_text_is_unreachable(tmp_path: Path) -> None:
    pieces = ["a", "b", "c", "ab", "abc", "ac"]
    content = bpe_json(pieces)
    content["model"]["merges"] = [["a", "b"], ["ab", "c"]]
    vocabulary = read_json_tokenizer(tmp_path, content)
    assert [pieces[i] for i in unreachable(vocabulary)] == ["ac"]


def test_partial_utf8_is_not_judged(tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, bpe_json(["a", "Ã", "©", "Ã©"]))
    assert unreachable(vocabulary) == {3: []}  # é has no merge; its two halves can't be tested


def test_continuation_pieces_are_tested_inside_word(tmp_path: Path) -> None:
    pieces = ["[UNK]", "a", "ing", "##ing", "##’", "##b"]
    vocabulary = read_json_tokenizer(tmp_path, wordpiece_json(pieces) | {"pre_tokenizer": {"type": "BertPreTokenizer"}})
    assert [pieces[i] for i in unreachable(vocabulary)] == ["##’"]


def test_continuation_that_starts_word_is_shown_by_what_comes_instead(tmp_path: Path) -> None:
    """BERT puts each Chinese character into a word of its own."""
    pieces = ["[UNK]", "一", "##一"]
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    content = wordpiece_json(pieces, normalizer=normalizer) | {"pre_tokenizer": {"type": "BertPreTokenizer"}}
    assert unreachable(read_json_tokenizer(tmp_path, content)) == {2: [1]}


def test_vocabulary_without_rules_raises() -> None:
    assert "does not say" in refusal(unreachable, small([b"a"]))


@pytest.mark.robust
@pytest.mark.parametrize("name", ["qwen2", "smollm2"])
def test_unreachable_tokens_of_real_tokenizers_are_cut_into_other_tokens(name: str) -> None:
    vocabulary = resolve(name).vocabulary
    found = unreachable(vocabulary)
    if name == "qwen2":
        assert 1_800 < len(found) < 2_000
    tokenizer = to_tokenizers(vocabulary, mid_text=True)
    for token_id in list(found)[:: max(1, len(found) // 100)]:
        token = vocabulary.token(token_id)
        assert token is not None
        assert tokenizer.encode(token.decode(), add_special_tokens=False).ids == found[token_id] != [token_id]
