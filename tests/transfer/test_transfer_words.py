"""Moving an adapter over words: the row of a word is the mean embedding of the tokens that the target spells it by."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_adapters import HIDDEN, VISION, langbridge, normal, randomised
from test_transfer import HEADS, by_hand
from tiny_llms import target
from torch.testing import assert_close

from vocabkit.adapter.config import AdapterConfig, Head, Spelled
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.adapter.spelled import compose
from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings, spell
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.check import check_transfer, why_unprovable
from vocabkit.transfer.export.export import Form, export
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import Target, transfer

WORDS = ("a", "and", "banjo", "hamsa", "sauropod's", "t-shirt", "red", "żółć")


@cache
def words() -> SharedVocabulary:
    """Words in the tokenizers of Qwen2 and LLaMA3, of captions in which `a` is almost everywhere."""
    counts = {**dict.fromkeys(WORDS, 1), "a": 1000}
    return align_words([resolve("qwen2").vocabulary, resolve("llama3").vocabulary], counts)


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
    for missing in ("error", "compose"):
        with pytest.raises(
            VocabkitError, match=r"mistral-v1 can't spell 1 of the 2 words.*x▁y.*set `missing` to drop$"
        ):
            transfer(adapter, llm, missing=missing)
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


# ---- spelled out -------------------------------------------------------------------------------------------------


def listed(llm: Target, words: list[str], count: int) -> torch.Tensor:
    """The embeddings of the first `count` tokens of a list of these words, again and again."""
    spellings = spell(binary_array([*(f" {word}".encode() for word in words), b","]), llm.vocabulary).lists()
    ids = [token for word in spellings[:-1] for token in (*word, *spellings[-1])]
    return llm.embeddings.rows(ids).repeat(count, 1)[:count]


def seeing(*shares: dict[str, float]) -> LangBridgeAdapter:
    """An adapter that sees these words in the patches whose features are 1 at place 0, 1, ..., and 0 elsewhere."""
    adapter = over_words()
    with torch.no_grad():
        for linear in (adapter.linear_1, adapter.linear_2, adapter.head):
            linear.weight.zero_()
            linear.bias.zero_()
        for patch, seen in enumerate(shares):
            adapter.linear_1.weight[patch, patch] = 10  # GELU leaves it as it is
            adapter.linear_2.weight[patch, patch] = 0.1
            logits = torch.tensor([seen.get(word, 1e-9) for word in WORDS]).log()
            adapter.head.weight[:, patch] = logits
    return adapter


PATCHES = torch.eye(3, VISION)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Spelled(), ["red", "hamsa"]),
        (Spelled(threshold=0.2), ["red", "hamsa"]),
        (Spelled(threshold=0.01), ["red", "hamsa", "t-shirt"]),
        (Spelled(threshold=0.01, order="place"), ["hamsa", "red", "t-shirt"]),
        (Spelled(threshold=0.9), ["red"]),
    ],
    ids=["default", "high", "low", "place", "none reaches it"],
)
def test_words_above_threshold_are_listed_in_order_and_again_until_positions_are_full(
    tmp_path: Path, settings: Spelled, expected: list[str]
) -> None:
    adapter = seeing({"hamsa": 1.0}, {"red": 1.0}, {"red": 0.95, "t-shirt": 0.05})
    llm = target(tmp_path / "llm", "llama3")
    moved, report = transfer(adapter, llm, visual_tokens=settings)
    assert torch.equal(moved(PATCHES), listed(llm, expected, 24))
    assert report.visual_tokens == settings
    assert moved.config.transfer is not None
    assert moved.config.transfer.pieces == len(moved.embeddings) == len(words().spell(llm.vocabulary).ids) + 1
    assert llm.vocabulary.token(moved.config.transfer.separator) == b","
    assert llm.vocabulary.tokens.take(moved.spelled_ids(PATCHES).numpy()).to_pylist().count(b",") >= 24 // 7


def test_adapters_from_before_the_commas_stay_as_they_were(tmp_path: Path) -> None:
    llm = target(tmp_path / "llm", "llama3")
    moved, _ = transfer(seeing({"hamsa": 1.0}), llm, visual_tokens=Spelled(positions=None))
    assert moved.config.transfer is not None
    config = moved.config.to_json()
    assert config.pop("separator") == moved.config.transfer.separator
    config["pieces"] -= 1
    tensors = {**moved.state_dict(), "embeddings": moved.embeddings[:-1]}
    old = LangBridgeAdapter.from_parts(tmp_path, AdapterConfig.from_json(config), tensors, moved.shared)
    hamsa = listed(llm, ["hamsa"], 8)[: len(words().spell(llm.vocabulary).lists()[WORDS.index("hamsa")])]
    assert torch.equal(old(PATCHES), hamsa.repeat(3, 1)[:3])
    assert check_transfer(old, seeing({"hamsa": 1.0}), llm).passed


def test_words_no_more_frequent_than_in_any_caption_are_left_out(tmp_path: Path) -> None:
    llm = target(tmp_path / "llm", "llama3")
    adapter = seeing({"a": 0.9, "hamsa": 0.1}, {"a": 0.8, "red": 0.2}, {"a": 1.0})

    def shown(adapter: LangBridgeAdapter) -> torch.Tensor:
        return transfer(adapter, llm, visual_tokens=Spelled(positions=9))[0](PATCHES)

    assert torch.equal(shown(adapter), listed(llm, ["red", "hamsa"], 9))
    uncounted = align_words([resolve("qwen2").vocabulary, resolve("llama3").vocabulary], dict.fromkeys(WORDS, 0))
    assert uncounted.tokens.equals(adapter.shared.tokens)
    adapter.shared = uncounted
    assert torch.equal(shown(adapter), listed(llm, ["a", "red", "hamsa"], 9))


@pytest.mark.parametrize(("positions", "expected"), [(24, 24), (None, 5)])
def test_positions_may_be_as_many_as_patches_and_images_are_independent(
    tmp_path: Path, positions: int | None, expected: int
) -> None:
    llm = target(tmp_path / "llm", "gemma3")
    moved, _ = transfer(over_words(), llm, visual_tokens=Spelled(positions=positions))
    features = normal(2, 5, VISION) * 3
    both = moved(features)
    assert both.shape == (2, expected, 6)
    assert torch.equal(both[1], moved(features[1]))
    table = set(map(tuple, moved.embeddings.tolist()))
    assert set(map(tuple, both.flatten(0, 1).tolist())) <= table


@pytest.mark.parametrize("settings", [Spelled(), Spelled(threshold=0.2, order="place", positions=20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_proves_spelled_visual_tokens(tmp_path: Path, dtype: torch.dtype, settings: Spelled) -> None:
    adapter, llm = over_words(dtype=dtype), target(tmp_path / "llm", "gemma3", dtype=dtype)
    moved, _ = transfer(adapter, llm, visual_tokens=settings, scale=0.5)
    moved.save_pretrained(tmp_path / "moved")
    loaded = load_adapter(tmp_path / "moved")
    assert loaded.config == moved.config
    proof = check_transfer(loaded, adapter, llm, features=normal(30, VISION))
    assert proof.passed, proof
    assert proof.spelled == settings
    assert [check.name for check in proof.checks] == ["random features, in float64", "real features, in float64"]
    for place, name in ((1, "row 1 is not"), (-1, "the separator is not")):
        right = loaded.embeddings[place].clone()
        loaded.embeddings[place] += 1
        assert any(name in each for each in check_transfer(loaded, adapter, llm).problems)
        loaded.embeddings[place] = right
    assert loaded.config.transfer is not None
    wrong = replace(loaded.config.transfer, separator=loaded.config.transfer.separator + 1)
    loaded.config = replace(loaded.config, transfer=wrong)
    assert any("which is no comma" in each for each in check_transfer(loaded, adapter, llm).problems)


def test_config_whose_setting_was_removed_is_refused(tmp_path: Path) -> None:
    moved, _ = transfer(over_words(), target(tmp_path / "llm", "gemma3"), visual_tokens=Spelled())
    moved.save_pretrained(tmp_path / "moved")
    config = json.loads((tmp_path / "moved/config.json").read_text())
    del config["spelled"]
    (tmp_path / "moved/config.json").write_text(json.dumps(config))
    with pytest.raises(
        VocabkitError, match=r"moved.*: its config is wrong: pieces and separator .* spelled is missing"
    ):
        load_adapter(tmp_path / "moved")


def test_setting_stays_when_adapter_moves_on_and_can_be_changed(tmp_path: Path) -> None:
    llama, gemma = target(tmp_path / "llama", "llama3"), target(tmp_path / "gemma", "gemma3")
    adapter = over_words()
    spelled, _ = transfer(adapter, llama, visual_tokens=Spelled(order="place"))
    with pytest.warns(VocabkitWarning, match="was transferred to llama3 before"):
        on, _ = transfer(spelled, gemma)
    with pytest.warns(VocabkitWarning, match="was transferred to llama3 before"):
        back, _ = transfer(spelled, gemma, visual_tokens="mix")
    assert on.config.spelled == Spelled(order="place")
    assert back.config.spelled is None
    assert torch.equal(back.embeddings, transfer(adapter, gemma)[0].embeddings)
    assert torch.equal(on.rows, back.embeddings)


def test_settings_that_do_not_spell_as_in_text_are_told(tmp_path: Path) -> None:
    llm, adapter = target(tmp_path / "llm", "llama3"), over_words()
    longest = max(map(len, words().spell(llm.vocabulary).lists()))
    with pytest.warns(VocabkitWarning, match=f"longest word has {longest} tokens, but `positions` is {longest - 1}"):
        transfer(adapter, llm, visual_tokens=Spelled(positions=longest - 1))
    with pytest.warns(VocabkitWarning, match="spelled out, but scaled by 2"):
        transfer(adapter, llm, visual_tokens=Spelled(), scale=2.0)
    with warnings.catch_warnings(action="error"):
        transfer(adapter, llm, visual_tokens=Spelled(positions=longest))
        transfer(adapter, llm, visual_tokens="mix", scale=2.0)


def test_proof_needs_the_rules_of_the_targets_tokenizer(tmp_path: Path) -> None:
    llm = target(tmp_path / "llm", "llama3")
    result, _ = transfer(over_words(), llm)
    without = replace(llm.vocabulary, segmentation=None)
    assert why_unprovable(result, llm.vocabulary) is None
    assert "does not say how text is cut into tokens; use its tokenizer.json" in str(why_unprovable(result, without))
    assert why_unprovable(transfer(langbridge("softmax"), llm)[0], without) is None


@pytest.mark.parametrize("positions", [0, 4097])
def test_number_of_positions_is_bounded(positions: int) -> None:
    with pytest.raises(VocabkitError, match=r"`positions` \d+: must be from 1 to 4,096"):
        Spelled(positions=positions)


def test_result_is_proven_against_the_adapter_before_an_earlier_move(tmp_path: Path) -> None:
    """Which gave the shared vocabulary a column more."""
    adapter, mistral = over_words(), target(tmp_path / "mistral", "mistral-v1")
    moved, _ = transfer(adapter, mistral)
    again, _ = transfer(moved, mistral, visual_tokens=Spelled())
    assert again.config.transfer is not None
    assert again.config.transfer.source_fingerprint != adapter.shared.fingerprint
    assert check_transfer(again, moved, mistral).passed
    assert check_transfer(again, adapter, mistral).passed
    others = align_words([resolve("qwen2").vocabulary, resolve("llama3").vocabulary], dict.fromkeys("abcdefgh", 1))
    config = AdapterConfig.of(others, llm="qwen2", vision_width=VISION, hidden_width=HIDDEN, head="softmax")
    other = LangBridgeAdapter.from_parts(tmp_path, config, adapter.state_dict(), others)
    (problem,) = check_transfer(again, other, mistral).problems
    assert problem == "the result was made from an adapter with another shared vocabulary"


def test_tokens_are_words_of_one_id_and_can_be_spelled_as_well(tmp_path: Path) -> None:
    adapter, llama = langbridge("softmax"), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama, visual_tokens=Spelled(positions=4))
    features = normal(9, 7)
    largest = adapter.coefficients(features).mean(dim=0).argmax()
    assert moved.config.transfer is not None
    assert moved.config.transfer.pieces is None
    assert torch.equal(moved(features)[0], moved.embeddings[largest])
    assert check_transfer(moved, adapter, llama).passed


def test_head_without_shares_and_composed_tokens_are_refused(tmp_path: Path) -> None:
    llama = target(tmp_path / "llm", "llama3")
    with pytest.raises(VocabkitError, match="linear head's coefficients are no shares"):
        transfer(over_words("linear"), llama, visual_tokens=Spelled())
    with pytest.raises(VocabkitError, match="compose makes mixes of tokens"):
        transfer(langbridge("softmax"), llama, missing="compose", visual_tokens=Spelled())


@pytest.mark.parametrize("form", ["projector", "mm_projector"])
def test_export_refuses_spelled_visual_tokens_by_name(tmp_path: Path, form: Form) -> None:
    moved, _ = transfer(over_words(), target(tmp_path / "llm", "llama3"), visual_tokens=Spelled())
    with pytest.raises(VocabkitError, match=f"visual tokens are spelled out, but {form} holds a projector"):
        export(moved, form, tmp_path / {"projector": "out", "mm_projector": "mm_projector.bin"}[form])
