"""check_transfer passes correct transfers and fails wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_adapters import langbridge, normal
from test_transfer import HEADS, sparse_adapter
from tiny_llms import random_rows, table_folder, target

from vocabkit.adapter.config import Head
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.transfer import check
from vocabkit.transfer.check import check_transfer
from vocabkit.transfer.fold import fold
from vocabkit.transfer.plan import Missing
from vocabkit.transfer.transfer import Target, transfer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS)
def test_transfer_passes_on_random_and_real_features(tmp_path: Path, head: Head, dtype: torch.dtype) -> None:
    adapter, llama = langbridge(head, dtype=dtype), target(tmp_path / "llm", "llama3", dtype=dtype)
    moved, _ = transfer(adapter, llama)
    proof = check_transfer(moved, adapter, llama, features=normal(30, 7) * 3)
    assert proof.passed, proof
    kinds = ("in float64", "as run", *(["folded, in float64"] if head == "linear" else []))
    assert [check.name for check in proof.checks] == [
        f"{features}, {kind}" for features in ("random features", "real features") for kind in kinds
    ]
    assert all(check.error < 1e-9 for check in proof.checks if not check.name.endswith("as run"))


@pytest.mark.parametrize("missing", ["drop", "compose"])
@pytest.mark.parametrize("head", HEADS)
def test_dropped_and_composed_rows_pass(tmp_path: Path, head: Head, missing: Missing) -> None:
    adapter, mistral = sparse_adapter(head), target(tmp_path / "llm", "mistral-v1")
    moved, _ = transfer(adapter, mistral, missing=missing, scale=0.3)
    assert check_transfer(moved, adapter, mistral).passed


def test_rows_shifted_by_one_fail(tmp_path: Path) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama)
    moved.embeddings = moved.embeddings.roll(1, dims=0)
    proof = check_transfer(moved, adapter, llama)
    assert not proof.passed
    assert proof.checks[0].error > 0.1


@pytest.mark.parametrize("head", HEADS)
def test_one_wrong_row_fails(tmp_path: Path, head: Head) -> None:
    adapter, llama = langbridge(head), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama)
    strongest = int(adapter.coefficients(normal(64, 7)).abs().mean(dim=0).argmax())
    moved.embeddings[strongest] += 1
    assert not check_transfer(moved, adapter, llama).passed


@pytest.mark.parametrize("head", HEADS)
def test_wrong_row_that_no_patch_uses_is_reported(tmp_path: Path, head: Head) -> None:
    adapter, llama = langbridge(head), target(tmp_path / "llm", "llama3")
    with torch.no_grad():
        adapter.head.weight[5], adapter.head.bias[5] = 0, -1e4 if head == "softmax" else 0
    moved, _ = transfer(adapter, llama)
    moved.embeddings[5] *= 1 + 1e-6
    proof = check_transfer(moved, adapter, llama)
    assert all(check.passed for check in proof.checks)
    assert len(proof.problems) == 1
    assert proof.problems[0].startswith("row 5 is not the target's embedding of ")


@pytest.mark.parametrize("head", HEADS)
def test_changed_weights_are_reported(tmp_path: Path, head: Head) -> None:
    adapter, llama = langbridge(head), target(tmp_path / "llm", "llama3")
    transfer(adapter, llama)[0].save(tmp_path / "moved")
    moved = LangBridgeAdapter.from_pretrained(tmp_path / "moved", kind="transferred")
    with torch.no_grad():
        moved.linear_1.bias[0] = torch.nextafter(moved.linear_1.bias[0], torch.tensor(9.0))
    proof = check_transfer(moved, adapter, llama)
    assert not proof.passed
    assert proof.problems == ("linear_1.bias differs from the adapter's",)


def test_nan_fails(tmp_path: Path) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama)
    moved.embeddings[0] = torch.nan
    assert not check_transfer(moved, adapter, llama).passed


def test_wrong_fold_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama)
    folded = fold(moved, torch.float64)
    with torch.no_grad():
        folded.linear_2.bias.zero_()
    monkeypatch.setattr(check, "fold", lambda *_: folded)
    proof = check_transfer(moved, adapter, llama)
    assert [check.passed for check in proof.checks] == [True, True, False]


def test_other_adapter_tokenizer_or_width_is_reported(tmp_path: Path) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama)
    other = check_transfer(moved, sparse_adapter("linear"), llama)
    assert other.problems == ("the result was made from an adapter with another shared vocabulary",)
    stranger = check_transfer(moved, langbridge(seed=1), llama)
    assert stranger.problems == (
        "all of its weights differ from the adapter's: it was made from another one, or trained since",
    )
    newer = target(tmp_path / "newer", "llama3.1")
    assert "another tokenizer" in check_transfer(moved, adapter, newer).problems[0]
    wide = Target(llama.vocabulary, open_embeddings(table_folder(tmp_path / "wide", random_rows(128_256, 8))))
    assert check_transfer(moved, adapter, wide).problems == ("width 6, but the target's is 8",)


@pytest.mark.parametrize("features", [normal(3, 8), normal(7), normal(0, 7)])
def test_features_of_another_width_raise(tmp_path: Path, features: torch.Tensor) -> None:
    adapter, llama = langbridge(), target(tmp_path / "llm", "llama3")
    moved, _ = transfer(adapter, llama)
    with pytest.raises(VocabkitError, match="expected \\(N, 7\\)"):
        check_transfer(moved, adapter, llama, features=features)
