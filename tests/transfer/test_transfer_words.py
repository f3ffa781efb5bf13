"""Moving an adapter over words: the row of a word is the mean embedding of the tokens that the target spells it by."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_adapters import HIDDEN, VISION, normal, randomised
from test_transfer import HEADS, by_hand
from tiny_llms import target
from torch.testing import assert_close

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.mixing.products import Head
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.llm.embeddings import compose
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings
from vocabkit.shared.words import align_words
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.check import check_transfer
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import transfer

WORDS = ("a", "and", "banjo", "hamsa", "sauropod's", "t-shirt", "red", "żółć")


@cache
def words() -> SharedVocabulary:
    """Words in the tokenizers of Qwen2 and LLaMA3."""
    return align_words([resolve("qwen2").vocabulary, resolve("llama3").vocabulary], dict.fromkeys(WORDS, 1))


def over_words(head: Head = "softmax", dtype: torch.dtype = torch.float32) -> LangBridgeAdapter:
    """An adapter trained with nothing."""
    config = AdapterConfig.of(words(), llm="qwen2", vision_width=VISION, hidden_width=HIDDEN, head=head)
    return randomised(LangBridgeAdapter(config, words()), 0).to(dtype)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "mistral-v1"])
@pytest.mark.parametrize("head", HEADS)
def test_rows_are_mean_embeddings_of_target_s_own_spelling_and_none_is_lost(
    tmp_path: Path, head: Head, name: str
) -> None:
    adapter, llm = over_words(head), target(tmp_path / "llm", name)
    moved, report = transfer(adapter, llm)
    ids = words().spell(llm.vocabulary).lists()
    rows = torch.stack([llm.embeddings.rows(each).double().mean(dim=0) for each in ids]).float()
    assert torch.equal(moved.embeddings, rows)
    features = normal(9, 7)
    expected = by_hand(adapter, features, list(range(len(WORDS))), rows)
    assert_close(moved(features).double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert (report.rows, report.found, report.composed, report.dropped) == (8, 8, 0, 0)
    assert report.of_several == sum(len(each) > 1 for each in ids)
    assert report.mass_found == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS)
def test_check_proves_it_and_linear_heads_fold(tmp_path: Path, head: Head, dtype: torch.dtype) -> None:
    adapter, llm = over_words(head, dtype), target(tmp_path / "llm", "gemma3", dtype=dtype)
    moved, _ = transfer(adapter, llm)
    moved.save_pretrained(tmp_path / "moved")
    moved = load_adapter(tmp_path / "moved")
    proof = check_transfer(moved, adapter, llm)
    assert proof.passed, proof
    assert proof.rows == len(WORDS)
    if head == "linear":
        assert_close(fold(moved, torch.float64)(normal(9, 7).double()), moved.double()(normal(9, 7).double()))


def test_check_fails_if_row_is_embedding_of_first_token_alone(tmp_path: Path) -> None:
    adapter, llm = over_words(), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llm)
    row = WORDS.index("hamsa")
    first = moved.shared.spellings("llama3").lists()[row][0]
    moved.embeddings[row] = llm.embeddings.rows([first])[0]
    assert check_transfer(moved, adapter, llm).problems == ("row 3 is not the target's embedding of ' hamsa'",)


def test_word_that_target_changes_is_refused_or_dropped(tmp_path: Path) -> None:
    capital = align_words([resolve("qwen2").vocabulary, resolve("llama3").vocabulary], {"a": 1, "x▁y": 1})
    config = AdapterConfig.of(capital, llm="qwen2", vision_width=VISION, hidden_width=HIDDEN, head="softmax")
    adapter = randomised(LangBridgeAdapter(config, capital), 0)
    llm = target(tmp_path / "llm", "mistral-v1")  # to SentencePiece `▁` is a space
    with pytest.raises(Exception, match=r"mistral-v1 lacks 1 of the 2 tokens of this adapter.*x▁y"):
        transfer(adapter, llm)
    moved, report = transfer(adapter, llm, missing="drop")
    assert (report.found, report.dropped) == (1, 1)
    assert check_transfer(moved, adapter, llm).passed


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=8), st.booleans())
def test_composed_rows_are_means_rounded_once_and_carry_gradients(lists: list[list[int]], half: bool) -> None:
    table = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16 if half else torch.float32)
    table.requires_grad_()
    spellings = Spellings.of(lists)
    rows = compose(table[torch.from_numpy(spellings.ids.astype(np.int64))], spellings)
    expected = torch.stack([table[ids].double().mean(dim=0) for ids in lists]).to(table.dtype)
    assert torch.equal(rows, expected)
    assert_close(torch.autograd.grad(rows.sum(), table), torch.autograd.grad(expected.sum(), table))
