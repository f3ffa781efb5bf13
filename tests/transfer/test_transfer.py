"""Moving an adapter to another LLM: the same coefficients over other embedding rows (Eq. 5-6)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_adapters import assert_same_state, langbridge, normal, shared_vocabulary
from tiny_llms import random_rows, table_folder, target
from torch import Tensor
from torch.testing import assert_close
from vocabularies import chat_vocabulary, text_vocabulary

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.mixing.products import Head
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.shared.align import align
from vocabkit.shared.rank import rank
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.transfer.check import check_transfer
from vocabkit.transfer.transfer import Preflight, Target, match_rms, parse_scale, transfer, with_visual_rms

HEADS: list[Head] = ["linear", "softmax"]


def by_hand(adapter: LangBridgeAdapter, features: Tensor, rows: list[int], embeddings: Tensor) -> Tensor:
    """Eq. 2-3 and 6 in float64, over these rows of V_shared."""
    w = {name: tensor.double() for name, tensor in adapter.state_dict().items()}
    hidden = torch.nn.functional.gelu(features.double() @ w["linear_1.weight"].T + w["linear_1.bias"])
    hidden = hidden @ w["linear_2.weight"].T + w["linear_2.bias"]
    p = hidden @ w["head.weight"][rows].T + w["head.bias"][rows]
    p = p.softmax(dim=1) if adapter.config.head == "softmax" else p
    return p @ embeddings.double()


@pytest.mark.parametrize("head", HEADS)
def test_visual_tokens_are_coefficients_times_the_rows_of_the_target(tmp_path: Path, head: Head) -> None:
    adapter, llama = langbridge(head), target(tmp_path / "llm", "llama3")
    moved, report = transfer(adapter, llama)
    rows = llama.embeddings.rows(adapter.shared.ids_for("llama3"))
    features = normal(9, 7)
    expected = by_hand(adapter, features, list(range(64)), rows)
    assert_close(moved(features).double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert (report.rows, report.found, report.composed, report.dropped) == (64, 64, 0, 0)
    assert (report.width, report.target, report.source) == (6, "llama3", "qwen2")
    assert torch.equal(moved.embeddings, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moving_back_to_the_llm_of_the_training_is_the_adapter_itself(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter, qwen = langbridge("softmax", dtype=dtype), target(tmp_path / "llm", "qwen2", dtype=dtype)
    moved, _ = transfer(adapter, qwen)
    rows, features = qwen.embeddings.rows(adapter.shared.ids_for("qwen2")), normal(3, 7, dtype=dtype)
    assert torch.equal(moved(features), adapter(features, rows))


def test_a_target_is_told_by_its_bytes_whatever_it_is_called(tmp_path: Path) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    renamed = Target(dataclasses.replace(llama.vocabulary, name="my-llama"), llama.embeddings)
    assert torch.equal(transfer(adapter, renamed)[0].embeddings, transfer(adapter, llama)[0].embeddings)


@pytest.mark.parametrize("head", HEADS)
def test_any_order_of_the_rows_gives_the_same_visual_tokens(tmp_path: Path, head: Head) -> None:
    adapter, llama = langbridge(head), target(tmp_path / "llm", "llama3")
    order = np.random.default_rng(0).permutation(64)
    shared = adapter.shared.select(order)
    state = adapter.state_dict()
    state |= {key: state[key][torch.from_numpy(order)] for key in ("head.weight", "head.bias")}
    config = dataclasses.replace(adapter.config, shared_fingerprint=shared.fingerprint)
    permuted = LangBridgeAdapter.from_parts(Path("permuted"), config, state, shared)
    features = normal(5, 7)
    assert_close(transfer(permuted, llama)[0](features), transfer(adapter, llama)[0](features), rtol=1e-5, atol=1e-5)


# ---- targets outside the set that V_shared was built for ---------------------------------------------------------


def sparse_adapter(head: Head) -> LangBridgeAdapter:
    """An adapter over 64 rows of which Mistral lacks some."""
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(20_000, 20_064))
    config = dataclasses.replace(langbridge(head).config, shared_fingerprint=shared.fingerprint)
    return LangBridgeAdapter.from_parts(Path("sparse"), config, langbridge(head).state_dict(), shared)


def test_missing_tokens_are_refused_unless_the_user_says_what_becomes_of_them(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"mistral-v1 lacks \d+ of the 64 tokens.*--missing drop or --missing comp"):
        transfer(sparse_adapter("linear"), target(tmp_path / "llm", "mistral-v1"))


@pytest.mark.parametrize("head", HEADS)
def test_dropped_rows_leave_the_others_and_a_softmax_is_renormalised(tmp_path: Path, head: Head) -> None:
    adapter, mistral = sparse_adapter(head), target(tmp_path / "llm", "mistral-v1")
    moved, report = transfer(adapter, mistral, missing="drop")
    values = mistral.vocabulary.tokens.to_pylist()
    kept = [row for row, token in enumerate(adapter.shared.tokens.to_pylist()) if token in values]
    assert 0 < len(kept) < 64
    assert (report.found, report.dropped, len(moved.embeddings)) == (len(kept), 64 - len(kept), len(kept))
    canonical = [mistral.vocabulary.canonical[values.index(adapter.shared.tokens[row].as_py())] for row in kept]
    rows, features = mistral.embeddings.rows(np.array(canonical)), normal(4, 7)
    assert_close(moved(features).double(), by_hand(adapter, features, kept, rows), rtol=1e-5, atol=1e-5)
    assert {example.row for example in report.examples}.isdisjoint(kept)


@pytest.mark.parametrize("head", HEADS)
def test_composed_rows_are_the_mean_of_the_targets_own_tokens(tmp_path: Path, head: Head) -> None:
    adapter, mistral = sparse_adapter(head), target(tmp_path / "llm", "mistral-v1")
    moved, report = transfer(adapter, mistral, missing="compose")
    assert (report.dropped, len(moved.embeddings)) == (0, 64)
    assert report.composed == 64 - report.found > 0
    segmenter = Segmenter(mistral.vocabulary)
    for example in report.examples:
        ids = segmenter.ids(example.token)
        assert ids is not None
        assert b"".join(example.composed_of) == example.token
        assert_close(moved.embeddings[example.row], mistral.embeddings.rows(np.array(ids)).mean(dim=0))


def test_the_report_says_how_much_of_the_corpus_is_lost(tmp_path: Path) -> None:
    qwen, llama = resolve("qwen2").vocabulary, resolve("llama3").vocabulary
    corpus = tmp_path / "captions.txt"
    corpus.write_text("A photo of a cat.\nA photograph of an unmistakably orange hovercraft.\n" * 3)
    shared = rank(align([qwen, llama]), qwen, [corpus], top=64)
    config = dataclasses.replace(langbridge().config, shared_fingerprint=shared.fingerprint)
    adapter = LangBridgeAdapter.from_parts(Path("ranked"), config, langbridge().state_dict(), shared)
    _, report = transfer(adapter, target(tmp_path / "llm", "mistral-v1"), missing="drop")
    counts = shared.counts
    assert counts is not None
    assert report.mass_found is not None
    values = set(resolve("mistral-v1").vocabulary.tokens.to_pylist())
    found = [token in values for token in shared.tokens.to_pylist()]
    assert report.mass_found == pytest.approx(counts[found].sum() / counts.sum())
    assert report.mass_dropped == pytest.approx(1 - report.mass_found)


def test_a_target_that_has_none_of_the_tokens_is_refused(tmp_path: Path) -> None:
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary])
    long = [row for row, token in enumerate(shared.tokens.to_pylist()) if len(token) > 30][:64]
    shared = shared.select(long)
    config = dataclasses.replace(langbridge().config, shared_fingerprint=shared.fingerprint)
    adapter = LangBridgeAdapter.from_parts(Path("long"), config, langbridge().state_dict(), shared)
    with pytest.raises(VocabkitError, match="has none of the 64 tokens"):
        transfer(adapter, target(tmp_path / "llm", "mistral-v1"), missing="drop")


# ---- wrong partners ----------------------------------------------------------------------------------------------


def test_another_tokenizer_under_a_name_of_the_set_is_refused(tmp_path: Path) -> None:
    other = target(tmp_path / "llm", "mistral-v1")
    impostor = Target(dataclasses.replace(other.vocabulary, name="llama3"), other.embeddings)
    with pytest.raises(VocabkitError, match=r"llama3: .* has other ids .* for 64 of 64 tokens, the first is '!'"):
        transfer(langbridge(), impostor)


SEEN = chat_vocabulary("seen", b"x", b"y", b"zz")
WIDER = chat_vocabulary("wider", b"zz", b"y", b"x", b"w")


def moved_to(folder: Path, shared: SharedVocabulary, vocabulary: Vocabulary) -> Preflight:
    """The report of moving an adapter over `shared` to random rows."""
    config = AdapterConfig.of(shared, llm="wider", vision_width=7, hidden_width=5)
    rows = open_embeddings(table_folder(folder, random_rows(8, 6)))
    return transfer(LangBridgeAdapter(config, shared), Target(vocabulary, rows), missing="drop")[1]


def test_ids_for_special_tokens_are_those_of_their_roles(tmp_path: Path) -> None:
    assert moved_to(tmp_path / "llm", align([SEEN, WIDER], special_roles=True), SEEN).found == 5
    assert moved_to(tmp_path / "again", align([SEEN, WIDER], at_least=1, special_roles=True), SEEN).found == 5


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        (chat_vocabulary("seen", b"x", b"zz", b"y"), "2 of 5 tokens, the first is 'y'"),
        (chat_vocabulary("seen", b"x", b"y", b"zz", roles=["eos", "bos"]), "2 of 5 tokens, the first is ''"),
        (chat_vocabulary("seen", b"x", b"y", b"zz", roles=["bos"]), "1 of 5 tokens, the first is ''"),
        (chat_vocabulary("seen", b"x", b"y", b"zZ"), "1 of 5 tokens, the first is 'zz'"),
        (chat_vocabulary("seen", b"x", b"x", b"zz"), "1 of 5 tokens, the first is 'y'"),
        (
            text_vocabulary(
                *("seen", b"x", b"y", b"zz", b"<bos>", b"<eos>", b"x"),
                added=np.array([True, False, False, True, True, False]),
                roles={"bos": 3, "eos": 4},
            ),
            "1 of 5 tokens, the first is 'x'",  # where 0 has the bytes, but 5 stands for them
        ),
    ],
)
def test_one_row_with_another_id_is_enough_to_be_refused(tmp_path: Path, other: Vocabulary, differing: str) -> None:
    with pytest.raises(VocabkitError, match=f"seen: .* has other ids .* for {differing}"):
        moved_to(tmp_path / "llm", align([SEEN, WIDER], special_roles=True), other)


def test_a_target_that_has_a_row_it_is_said_to_lack_is_refused(tmp_path: Path) -> None:
    other = text_vocabulary("seen", b"x", b"y", b"zz", b"<bos>", b"<eos>", b"w", roles={"bos": 3, "eos": 4})
    with pytest.raises(VocabkitError, match=r"seen: .* has other ids .* for 1 of 6 tokens, the first is 'w'"):
        moved_to(tmp_path / "llm", align([SEEN, WIDER], at_least=1, special_roles=True), other)


def test_a_target_that_ends_before_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"seen: .* has other ids .* for 1 of 3 tokens, the first is 'zz'"):
        moved_to(tmp_path / "llm", align([SEEN, WIDER]), text_vocabulary("seen", b"x", b"y"))


def test_another_file_of_the_same_tokenizer_takes_its_place(tmp_path: Path) -> None:
    newer = target(tmp_path / "llm", "llama3.1")
    renamed = Target(dataclasses.replace(newer.vocabulary, name="llama3"), newer.embeddings)
    moved, _ = transfer(langbridge(), renamed)
    assert moved.shared.tokenizers[1].fingerprint == newer.vocabulary.fingerprint
    assert check_transfer(moved, langbridge(), renamed).passed


def test_ids_without_an_embedding_row_are_refused(tmp_path: Path) -> None:
    vocabulary = resolve("llama3").vocabulary
    short = int(shared_vocabulary().ids_for("llama3").max())
    table = open_embeddings(table_folder(tmp_path / "llm", random_rows(short, 6)))
    with pytest.raises(VocabkitError, match=rf"token id {short} is outside its {short} rows"):
        transfer(langbridge(), Target(vocabulary, table))


# ---- the result --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moved", "moved.pt"])
@pytest.mark.parametrize("head", HEADS)
def test_the_result_needs_nothing_but_its_checkpoint(tmp_path: Path, head: Head, name: str) -> None:
    adapter = sparse_adapter(head)
    moved, _ = transfer(adapter, target(tmp_path / "llm", "mistral-v1"), missing="drop", scale=0.5)
    moved.save(tmp_path / name)
    loaded = LangBridgeAdapter.from_pretrained(tmp_path / name, kind="transferred")
    assert_same_state(loaded, moved)
    assert loaded.config == moved.config
    assert loaded.config.transfer.source_fingerprint == adapter.shared.fingerprint
    assert torch.equal(loaded(normal(2, 7)), moved(normal(2, 7)))


def test_bytes_in_the_report_are_those_of_the_tensors(tmp_path: Path) -> None:
    moved, report = transfer(langbridge(), target(tmp_path / "llm", "llama3"))
    moved.save(tmp_path / "moved")
    assert report.bytes == sum(tensor.nbytes for tensor in moved.state_dict().values())
    assert report.bytes < (tmp_path / "moved/model.safetensors").stat().st_size < report.bytes + 4096


def test_the_report_gives_the_norms_of_the_rows(tmp_path: Path) -> None:
    moved, report = transfer(langbridge(), target(tmp_path / "llm", "llama3", dtype=torch.bfloat16))
    lengths = moved.embeddings.double().norm(dim=1)
    found = (report.norms.shortest, report.norms.median, report.norms.longest)
    assert found == pytest.approx(
        (float(lengths.min()), float(np.median(lengths.numpy())), float(lengths.max())), rel=1e-5
    )
    assert report.norms.rms == pytest.approx(float(moved.embeddings.double().square().mean().sqrt()), rel=1e-5)
    assert report.dtype == "bfloat16"


# ---- scale -------------------------------------------------------------------------------------------------------


def test_the_scale_multiplies_the_visual_tokens(tmp_path: Path) -> None:
    llama, features = target(tmp_path / "llm", "llama3"), normal(3, 7)
    plain, scaled = (transfer(langbridge(), llama, scale=scale)[0] for scale in (1.0, 0.25))
    assert_close(scaled(features), plain(features) * 0.25)


@pytest.mark.parametrize("head", HEADS)
def test_rms_brings_visual_tokens_to_the_length_of_the_targets_embeddings(tmp_path: Path, head: Head) -> None:
    llama, features = target(tmp_path / "llm", "llama3"), normal(50, 7)
    moved, report = transfer(langbridge(head), llama)
    before = with_visual_rms(moved, report, features)
    after = match_rms(moved, report, features)
    tokens = moved(features).detach()
    assert float(tokens.square().mean()) == pytest.approx(float(moved.embeddings.square().mean()), rel=1e-4)
    assert after.scale == moved.scale == pytest.approx(report.norms.rms / before.visual_rms)
    assert after.visual_rms == pytest.approx(float(tokens.square().mean().sqrt()))


def test_rms_of_visual_tokens_that_are_zero_is_refused(tmp_path: Path) -> None:
    adapter = langbridge()
    with torch.no_grad():
        adapter.head.weight.zero_()
        adapter.head.bias.zero_()
    moved, report = transfer(adapter, target(tmp_path / "llm", "llama3"))
    with pytest.raises(VocabkitError, match="all zero"):
        match_rms(moved, report, normal(3, 7))


@pytest.mark.parametrize(("argument", "factor"), [("none", 1.0), ("rms", None), ("0.5", 0.5), ("2", 2.0)])
def test_scales_that_are_understood(argument: str, factor: float | None) -> None:
    assert parse_scale(argument) == factor


@pytest.mark.parametrize("argument", ["", "0", "-1", "nan", "inf", "half"])
def test_scales_that_are_none_are_refused(argument: str) -> None:
    with pytest.raises(VocabkitError, match="choose none, rms, or a number from 1e-6 to 1e6"):
        parse_scale(argument)
