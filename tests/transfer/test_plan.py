"""A transfer is planned without weights and without torch, and says beforehand what it will give."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, vocabkit
from small_adapters import langbridge, projector, sparse_adapter
from tiny_llms import target

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.shared.align import align
from vocabkit.shared.rank import rank
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.plan import Missing, preview
from vocabkit.transfer.transfer import transfer

READ = {"norms", "unread", "dtype", "bytes", "embeddings", "width", "parameters", "table_rows"}
"""What the tokenizer `mistral-v1` alone does not tell."""


@pytest.mark.parametrize("missing", ["drop", "compose"])
def test_preview_says_what_the_transfer_then_gives(tmp_path: Path, missing: Missing) -> None:
    sparse_adapter("softmax").save(tmp_path / "adapter.pt")
    llm = target(tmp_path / "llm", "mistral-v1")
    _, report = transfer(tmp_path / "adapter.pt", llm, missing=missing)
    told = preview(tmp_path / "adapter.pt", "mistral-v1", missing=missing, weights=tmp_path / "llm")
    without = dict.fromkeys(READ)
    assert dataclasses.replace(told, **without) == dataclasses.replace(report, **without)
    assert (told.norms, told.dtype, told.bytes) == (None, None, None)


def test_preview_counts_the_numbers_of_the_result(tmp_path: Path) -> None:
    adapter = langbridge()
    adapter.save(tmp_path / "adapter.pt")
    told = preview(tmp_path / "adapter.pt", "llama3-8b")
    assert told.parameters == sum(tensor.numel() for tensor in adapter.state_dict().values()) + 64 * 4096


def test_preview_without_a_choice_tells_what_each_would_give(tmp_path: Path) -> None:
    sparse_adapter("linear").save(tmp_path / "adapter")
    told = preview(tmp_path / "adapter", "llama3-8b", missing="error")
    dropped = preview(tmp_path / "adapter", "llama3-8b", missing="drop")
    composed = preview(tmp_path / "adapter", "llama3-8b", missing="compose")
    assert (told.composed, told.dropped) == (0, 0)
    assert (told.found, told.spelled) == (dropped.found, composed.composed)
    assert dropped.dropped == told.rows - told.found


def test_missing_tokens_come_with_their_share_the_most_frequent_first(tmp_path: Path) -> None:
    qwen, llama = resolve("qwen2").vocabulary, resolve("llama3").vocabulary
    (tmp_path / "captions.txt").write_text("A photo of a cat.\nAn unmistakably orange hovercraft.\n" * 3 + "hovercraft")
    shared = rank(align([qwen, llama]), qwen, [tmp_path / "captions.txt"], top=64)
    config = dataclasses.replace(langbridge().config, shared_fingerprint=shared.fingerprint)
    LangBridgeAdapter.from_parts(Path("ranked"), config, langbridge().state_dict(), shared).save(tmp_path / "adapter")
    told = preview(tmp_path / "adapter", "smollm2-135m")
    counts = shared.counts
    assert counts is not None
    shares = [example.share for example in told.examples]
    assert shares == pytest.approx([counts[example.row] / counts.sum() for example in told.examples])
    assert shares == sorted(shares, key=lambda share: -(share or 0))
    values = set(resolve("smollm2").vocabulary.tokens.to_pylist())
    lacking = [row for row, token in enumerate(shared.tokens.to_pylist()) if token not in values]
    assert shares[0] == pytest.approx(counts[lacking].max() / counts.sum())


@pytest.mark.parametrize("counted", [0, 1])
def test_corpus_with_none_or_one_of_the_tokens_has_shares(tmp_path: Path, counted: int) -> None:
    adapter = langbridge()
    counts = np.zeros(len(adapter.shared), np.int64)
    counts[0] = counted
    shared = adapter.shared.with_counts(counts)
    config = dataclasses.replace(adapter.config, shared_fingerprint=shared.fingerprint)
    LangBridgeAdapter.from_parts(Path("counted"), config, adapter.state_dict(), shared).save(tmp_path / "adapter")
    told = preview(tmp_path / "adapter", "llama3-8b")
    assert (told.mass_found, told.mass_dropped) == (counted, 0)


def test_preview_has_the_scale_and_the_way_that_tokens_are_made(tmp_path: Path) -> None:
    moved, _ = transfer(langbridge("softmax"), target(tmp_path / "llm", "llama3"), scale=0.5)
    moved.save(tmp_path / "moved")
    told = preview(tmp_path / "moved", "llama3-8b", scale=4.0, visual_tokens=Spelled(positions=2))
    assert (told.scale, told.visual_tokens) == (2.0, Spelled(positions=2))
    with pytest.raises(VocabkitError, match=r"`scale` is 0\.0: choose rms or a number"):
        preview(tmp_path / "moved", "llama3-8b", scale=0.0)


def test_tiles_of_another_llm_and_a_projector_are_refused(tmp_path: Path) -> None:
    projector().save(tmp_path / "mlp.pt")
    with pytest.raises(VocabkitError, match="holds an MLP projector, not a LangBridge adapter; it has no vocabulary"):
        preview(tmp_path / "mlp.pt", "llama3-8b")


# ---- the command -------------------------------------------------------------------------------------------------


def test_command_reports_a_catalog_model_without_its_weights(tmp_path: Path) -> None:
    sparse_adapter("linear").save(tmp_path / "adapter")
    done = vocabkit(tmp_path, "transfer", "adapter", "--to", "llama3-8b")
    assert done.returncode == 0, done.stderr
    table = "1,050,673,152 bytes: model.embed_tokens.weight, 128,256 x 4,096 bfloat16"
    assert f"to read {table}, in model-00001-of-00004.safetensors" in " ".join(done.stdout.split())
    assert "nothing is written" in done.stderr
    assert "--weights FOLDER" in done.stderr
    told = json.loads(vocabkit(tmp_path, "transfer", "adapter", "--to", "llama3-8b", "--json").stdout)["preflight"]
    assert (told["width"], told["table_rows"], told["norms"]) == (4096, 128_256, None)
    assert told["unread"]["bytes"] == 128_256 * 4096 * 2


def test_missing_tokens_refuse_only_when_something_is_to_be_written(tmp_path: Path) -> None:
    sparse_adapter("linear").save(tmp_path / "adapter")
    target(tmp_path / "llm", "mistral-v1")
    words = ["transfer", "adapter", "--to", "mistral-v1", "--weights", "llm"]
    report = vocabkit(tmp_path, *words)
    assert report.returncode == 0, report.stderr
    assert "missing: compose" in report.stdout
    assert "--missing drop or compose" in report.stderr
    refused = vocabkit(tmp_path, *words, "--out", "moved")
    assert "set --missing to drop or compose" in error_of(refused)
    assert not (tmp_path / "moved").exists()


def test_report_reads_weights_that_are_here(tmp_path: Path) -> None:
    langbridge().save(tmp_path / "adapter")
    target(tmp_path / "llm", "llama3")
    done = vocabkit(tmp_path, "transfer", "adapter", "--to", "llama3", "--weights", "llm")
    assert "RMS of an element" in done.stdout
