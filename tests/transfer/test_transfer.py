"""Moving an adapter to another LLM: the same coefficients over other embedding rows (Eq. 5-6)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_adapters import assert_same_state, langbridge, normal, shared_vocabulary, sparse_adapter
from tiny_llms import random_rows, table_folder, target
from torch import Tensor
from torch.testing import assert_close
from vocabularies import chat_vocabulary, text_vocabulary

from vocabkit.adapter.config import AdapterConfig, Head
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
from vocabkit.transfer.plan import Preflight
from vocabkit.transfer.transfer import Target, open_target, transfer, visual_rms

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
def test_transfer_to_the_training_llm_changes_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter, qwen = langbridge("softmax", dtype=dtype), target(tmp_path / "llm", "qwen2", dtype=dtype)
    moved, _ = transfer(adapter, qwen)
    rows, features = qwen.embeddings.rows(adapter.shared.ids_for("qwen2")), normal(3, 7, dtype=dtype)
    assert torch.equal(moved(features), adapter(features, rows))


def test_target_tokens_are_found_by_bytes_not_by_name(tmp_path: Path) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    renamed = Target(dataclasses.replace(llama.vocabulary, name="my-llama"), llama.embeddings)
    assert torch.equal(transfer(adapter, renamed)[0].embeddings, transfer(adapter, llama)[0].embeddings)


@pytest.mark.parametrize("head", HEADS)
def test_row_order_does_not_change_visual_tokens(tmp_path: Path, head: Head) -> None:
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


def test_missing_tokens_raise_by_default(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"mistral-v1 lacks \d+ of the 64 tokens.*set `missing` to drop or compose"):
        transfer(sparse_adapter("linear"), target(tmp_path / "llm", "mistral-v1"))


@pytest.mark.parametrize("head", HEADS)
def test_drop_keeps_other_rows_and_renormalises_softmax(tmp_path: Path, head: Head) -> None:
    adapter, mistral = sparse_adapter(head), target(tmp_path / "llm", "mistral-v1")
    moved, report = transfer(adapter, mistral, missing="drop")
    values = mistral.vocabulary.tokens.to_pylist()
    kept = [row for row, token in enumerate(adapter.shared.tokens.to_pylist()) if token in values]
    assert 0 < len(kept) < 64
    assert (report.found, report.dropped, len(moved.embeddings)) == (len(kept), 64 - len(kept), len(kept))
    canonical = [mistral.vocabulary.canonical[values.index(adapter.shared.tokens[row].as_py())] for row in kept]
    rows, features = mistral.embeddings.rows(np.array(canonical)), normal(4, 7)
    assert_close(moved(features).double(), by_hand(adapter, features, kept, rows), rtol=1e-5, atol=1e-5)
    assert [example.row for example in report.examples] == [row for row in range(64) if row not in kept][:8]


@pytest.mark.parametrize("head", HEADS)
def test_compose_uses_the_mean_of_the_target_tokens(tmp_path: Path, head: Head) -> None:
    adapter, mistral = sparse_adapter(head), target(tmp_path / "llm", "mistral-v1")
    moved, report = transfer(adapter, mistral, missing="compose")
    assert (report.dropped, len(moved.embeddings)) == (0, 64)
    assert report.composed == 64 - report.found > 0
    segmenter = Segmenter(mistral.vocabulary)
    for example in report.examples:
        ids = segmenter.ids(example.token)
        assert ids is not None
        assert b"".join(example.spelled) == example.token
        assert_close(moved.embeddings[example.row], mistral.embeddings.rows(np.array(ids)).mean(dim=0))


def test_report_has_corpus_mass(tmp_path: Path) -> None:
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


def test_target_without_shared_tokens_raises(tmp_path: Path) -> None:
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary])
    long = [row for row, token in enumerate(shared.tokens.to_pylist()) if len(token) > 30][:64]
    shared = shared.select(long)
    config = dataclasses.replace(langbridge().config, shared_fingerprint=shared.fingerprint)
    adapter = LangBridgeAdapter.from_parts(Path("long"), config, langbridge().state_dict(), shared)
    with pytest.raises(VocabkitError, match="has none of the 64 tokens"):
        transfer(adapter, target(tmp_path / "llm", "mistral-v1"), missing="drop")


# ---- wrong partners ----------------------------------------------------------------------------------------------


def test_other_tokenizer_of_a_known_name_raises(tmp_path: Path) -> None:
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


def test_special_tokens_get_the_ids_of_their_roles(tmp_path: Path) -> None:
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
    ],
)
def test_one_differing_id_raises(tmp_path: Path, other: Vocabulary, differing: str) -> None:
    with pytest.raises(VocabkitError, match=f"seen: .* has other ids .* for {differing}"):
        moved_to(tmp_path / "llm", align([SEEN, WIDER], special_roles=True), other)


def test_target_with_a_row_recorded_as_missing_raises(tmp_path: Path) -> None:
    other = text_vocabulary("seen", b"x", b"y", b"zz", b"<bos>", b"<eos>", b"w", roles={"bos": 3, "eos": 4})
    with pytest.raises(VocabkitError, match=r"seen: .* has other ids .* for 1 of 6 tokens, the first is 'w'"):
        moved_to(tmp_path / "llm", align([SEEN, WIDER], at_least=1, special_roles=True), other)


def test_target_with_too_few_ids_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"seen: .* has other ids .* for 1 of 3 tokens, the first is 'zz'"):
        moved_to(tmp_path / "llm", align([SEEN, WIDER]), text_vocabulary("seen", b"x", b"y"))


def test_newer_file_of_the_same_tokenizer_replaces_its_record(tmp_path: Path) -> None:
    newer = target(tmp_path / "llm", "llama3.1")
    renamed = Target(dataclasses.replace(newer.vocabulary, name="llama3"), newer.embeddings)
    moved, _ = transfer(langbridge(), renamed)
    assert moved.shared.tokenizers[1].fingerprint == newer.vocabulary.fingerprint
    assert check_transfer(moved, langbridge(), renamed).passed


def test_ids_without_an_embedding_row_raise(tmp_path: Path) -> None:
    vocabulary = resolve("llama3").vocabulary
    short = int(shared_vocabulary().ids_for("llama3").max())
    table = open_embeddings(table_folder(tmp_path / "llm", random_rows(short, 6)))
    with pytest.raises(VocabkitError, match=rf"token id {short} is outside its {short} rows"):
        transfer(langbridge(), Target(vocabulary, table))


# ---- the result --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moved", "moved.pt"])
@pytest.mark.parametrize("head", HEADS)
def test_result_loads_from_its_checkpoint_alone(tmp_path: Path, head: Head, name: str) -> None:
    adapter = sparse_adapter(head)
    moved, _ = transfer(adapter, target(tmp_path / "llm", "mistral-v1"), missing="drop", scale=0.5)
    moved.save(tmp_path / name)
    loaded = LangBridgeAdapter.from_pretrained(tmp_path / name, kind="transferred")
    assert_same_state(loaded, moved)
    assert loaded.config == moved.config
    assert loaded.config.transfer.source_fingerprint == adapter.shared.fingerprint
    assert torch.equal(loaded(normal(2, 7)), moved(normal(2, 7)))


def test_report_has_the_size_of_the_tensors(tmp_path: Path) -> None:
    moved, report = transfer(langbridge(), target(tmp_path / "llm", "llama3"))
    moved.save(tmp_path / "moved")
    assert report.bytes == sum(tensor.nbytes for tensor in moved.state_dict().values())
    assert report.bytes < (tmp_path / "moved/model.safetensors").stat().st_size < report.bytes + 4096


def test_report_has_row_norms(tmp_path: Path) -> None:
    moved, report = transfer(langbridge(), target(tmp_path / "llm", "llama3", dtype=torch.bfloat16))
    lengths = moved.embeddings.double().norm(dim=1)
    found = (report.norms.shortest, report.norms.median, report.norms.longest)
    assert found == pytest.approx(
        (float(lengths.min()), float(np.median(lengths.numpy())), float(lengths.max())), rel=1e-5
    )
    assert report.norms.rms == pytest.approx(float(moved.embeddings.double().square().mean().sqrt()), rel=1e-5)
    assert report.dtype == "bfloat16"
    assert "(5 hidden units; a Llava checkpoint and mm_projector pad them to 6)" in report.folding


# ---- scale -------------------------------------------------------------------------------------------------------


def test_scale_multiplies_visual_tokens(tmp_path: Path) -> None:
    llama, features = target(tmp_path / "llm", "llama3"), normal(3, 7)
    plain, scaled = (transfer(langbridge(), llama, scale=scale)[0] for scale in (1.0, 0.25))
    assert_close(scaled(features), plain(features) * 0.25)


@pytest.mark.parametrize("head", HEADS)
def test_rms_matches_the_length_of_the_target_embeddings(tmp_path: Path, head: Head) -> None:
    llama, features = target(tmp_path / "llm", "llama3"), normal(50, 7)
    _, before = transfer(langbridge(head), llama, features=features)
    moved, after = transfer(langbridge(head), llama, scale="rms", features=features)
    tokens = moved(features).detach()
    assert float(tokens.square().mean()) == pytest.approx(float(moved.embeddings.square().mean()), rel=1e-4)
    assert after.scale == moved.scale == pytest.approx(before.norms.rms / before.visual_rms)
    assert after.visual_rms == pytest.approx(float(tokens.square().mean().sqrt()))


def test_rms_of_zero_visual_tokens_raises(tmp_path: Path) -> None:
    adapter = langbridge()
    with torch.no_grad():
        adapter.head.weight.zero_()
        adapter.head.bias.zero_()
    with pytest.raises(VocabkitError, match="all zero"):
        transfer(adapter, target(tmp_path / "llm", "llama3"), scale="rms", features=normal(3, 7))


def test_rms_without_features_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="give `features`"):
        transfer(langbridge(), target(tmp_path / "llm", "llama3"), scale="rms")


@pytest.mark.parametrize("scale", [0.0, -1.0, 9.9e-7, 1.1e6, 1e40, float("nan"), float("inf")])
def test_invalid_scale_raises(tmp_path: Path, scale: float) -> None:
    with pytest.raises(VocabkitError, match="choose rms or a number from 1e-6 to 1e6"):
        transfer(langbridge(), target(tmp_path / "llm", "llama3"), scale=scale)


def test_scale_that_overflows_the_rows_raises(tmp_path: Path) -> None:
    half = target(tmp_path / "llm", "llama3", dtype=torch.float16)
    transfer(langbridge(), half, scale=1e3)
    with pytest.raises(VocabkitError, match=r"`scale` 1e\+06 makes visual tokens of .*float16, which ends at 65,504"):
        transfer(langbridge(), half, scale=1e6)


def test_adapter_features_and_target_may_be_paths(tmp_path: Path) -> None:
    langbridge().save(tmp_path / "adapter.pt")
    target(tmp_path / "llm", "llama3")
    table = open_target("llama3", weights=tmp_path / "llm")
    save_file({"features": normal(9, 7)}, tmp_path / "features.safetensors")
    moved, report = transfer(tmp_path / "adapter.pt", table, features=tmp_path / "features.safetensors")
    assert_same_state(moved, transfer(langbridge(), table)[0])
    assert report.visual_rms == pytest.approx(visual_rms(moved, normal(9, 7)))
