"""check_transfer passes correct transfers and notices each small fault, whichever part of the proof is looking."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_adapters import langbridge, normal, sparse_adapter
from test_transfer import HEADS
from tiny_llms import random_rows, table_folder, target
from tokenizer_files import bpe_json, read_json_tokenizer
from torch import Tensor
from vocabularies import chat_vocabulary, text_vocabulary

from vocabkit.adapter.config import AdapterConfig, Head
from vocabkit.adapter.mixing.mix import mix
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.shared.align import align
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.transfer import check
from vocabkit.transfer.check import Check, Proof, check_transfer
from vocabkit.transfer.fold import fold
from vocabkit.transfer.plan import Missing
from vocabkit.transfer.transfer import Target, transfer

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MISSING: list[Missing] = ["error", "drop", "compose"]
WEIGHTS = ["linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias", "head.weight", "head.bias"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
PAIRS = [first + second for first in LETTERS[:7] for second in LETTERS[:7]][:38]

Moving = Callable[..., tuple[LangBridgeAdapter, LangBridgeAdapter, Target]]


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Moving:
    """Give an adapter over 64 tokens, the same moved, and its target: one that has all of them, or lacks some pairs."""
    folder = tmp_path_factory.mktemp("moving")

    def vocabulary(name: str, pieces: list[str]) -> Vocabulary:
        return dataclasses.replace(read_json_tokenizer(folder, bpe_json(pieces)), name=name)

    shared = align([vocabulary(name, LETTERS + PAIRS) for name in ("source", "twin")])
    has = {"all": ["<", *reversed(PAIRS), *LETTERS, ">"], "some": ["<", *LETTERS, *PAIRS[::2], ">"]}
    vocabularies = {name: vocabulary(name, pieces) for name, pieces in has.items()}

    @cache
    def moved(head: Head, missing: Missing, dtype: torch.dtype) -> tuple[LangBridgeAdapter, LangBridgeAdapter, Target]:
        config = dataclasses.replace(langbridge(head).config, llm="source", shared_fingerprint=shared.fingerprint)
        adapter = LangBridgeAdapter.from_parts(Path("small"), config, langbridge(head).state_dict(), shared).to(dtype)
        name = "all" if missing == "error" else "some"
        rows = random_rows(len(has[name]), 6, dtype)
        to = Target(vocabularies[name], open_embeddings(table_folder(folder / f"{head}-{missing}-{dtype}", rows)))
        return adapter, transfer(adapter, to, missing=missing, scale=0.5)[0], to

    def fresh(
        head: Head = "linear", missing: Missing = "error", dtype: torch.dtype = torch.float32
    ) -> tuple[LangBridgeAdapter, LangBridgeAdapter, Target]:
        adapter, result, to = moved(head, missing, dtype)
        return adapter, copied(result), to

    return fresh


def copied(adapter: LangBridgeAdapter) -> LangBridgeAdapter:
    """The same with tensors of its own, as if read from a file."""
    tensors = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    return LangBridgeAdapter.from_parts(Path("copy"), adapter.config, tensors, adapter.shared)


def passing(proof: Proof) -> list[bool]:
    return [check.passed for check in proof.checks]


# ---- correct transfers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEADS)
def test_transfer_passes_on_random_and_real_features(tmp_path: Path, head: Head, dtype: torch.dtype) -> None:
    adapter, llama = langbridge(head, dtype=dtype), target(tmp_path / "llm", "llama3", dtype=dtype)
    proof = check_transfer(transfer(adapter, llama, scale=0.5)[0], adapter, llama, features=normal(30, 7) * 3)
    assert proof.passed, proof
    assert (proof.target, proof.rows, proof.scale) == ("llama3", 64, 0.5)
    kinds = ("in float64", "as run", *(["folded, in float64"] if head == "linear" else []))
    assert [(check.name, check.patches) for check in proof.checks] == [
        (f"{features}, {kind}", patches)
        for features, patches in (("random features", 64), ("real features", 30))
        for kind in kinds
    ]
    assert all(check.error < 1e-9 for check in proof.checks if not check.name.endswith("as run"))


@pytest.mark.parametrize("missing", ["drop", "compose"])
@pytest.mark.parametrize("head", HEADS)
def test_dropped_and_composed_rows_of_a_real_target_pass(tmp_path: Path, head: Head, missing: Missing) -> None:
    adapter, mistral = sparse_adapter(head), target(tmp_path / "llm", "mistral-v1")
    moved, _ = transfer(adapter, mistral, missing=missing, scale=0.3)
    assert check_transfer(moved, adapter, mistral).passed


@pytest.mark.parametrize("block", [10, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", ["drop", "compose"])
@pytest.mark.parametrize("head", HEADS)
def test_dropped_and_composed_rows_pass_in_blocks_of_any_size(
    moving: Moving, head: Head, missing: Missing, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_BLOCK", block)
    monkeypatch.setattr(check, "_COLUMN_BYTES", block * 100)  # one column at a time, or all six
    adapter, moved, to = moving(head, missing, dtype)
    assert moved.config.rows == (64 if missing == "compose" else 45)
    proof = check_transfer(moved, adapter, to)
    assert proof.passed, proof


@pytest.mark.parametrize(("weights", "rows"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("head", HEADS)
def test_coarser_of_two_dtypes_sets_the_limit(
    moving: Moving, head: Head, weights: torch.dtype, rows: torch.dtype
) -> None:
    adapter, to = moving(head, dtype=weights)[0], moving(head, dtype=rows)[2]
    proof = check_transfer(transfer(adapter, to)[0], adapter, to)
    assert proof.passed, proof
    assert 1e-2 < proof.checks[1].limit < 0.3


def test_visual_tokens_of_zero_pass(moving: Moving) -> None:
    adapter, _, to = moving()
    adapter = copied(adapter)
    with torch.no_grad():
        adapter.head.weight.zero_()
        adapter.head.bias.zero_()
    assert check_transfer(transfer(adapter, to)[0], adapter, to).passed


def test_adapters_and_features_may_be_paths(tmp_path: Path, moving: Moving) -> None:
    adapter, moved, to = moving()
    adapter.save(tmp_path / "adapter.pt")
    moved.save(tmp_path / "moved")
    save_file({"features": normal(300, 7)}, tmp_path / "features.safetensors")
    proof = check_transfer(tmp_path / "moved", tmp_path / "adapter.pt", to, features=tmp_path / "features.safetensors")
    assert proof.passed
    assert [check.patches for check in proof.checks] == [64] * 3 + [256] * 3


# ---- faults in what is computed ----------------------------------------------------------------------------------


def too_long(*inputs: Tensor, **options: Any) -> Tensor:
    return mix(*inputs, **options) * (1 + 1e-6)


def without_bias(*inputs: Tensor, **options: Any) -> Tensor:
    return mix(*inputs, **{**options, "bias": torch.zeros_like(options["bias"])})


def scaled_twice(*inputs: Tensor, **options: Any) -> Tensor:
    return mix(*inputs, **options) * 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("head", HEADS)
def test_systematic_error_fails_in_float64(
    moving: Moving, head: Head, missing: Missing, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, moved, to = moving(head, missing, dtype)
    for fault in (too_long, without_bias, scaled_twice):
        monkeypatch.setattr("vocabkit.adapter.model.mix", fault)
        proof = check_transfer(moved, adapter, to)
        assert not proof.passed
        assert proof.problems == ()
        assert not proof.checks[0].passed, fault


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 3e-5), (torch.float16, 0.04), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("head", HEADS)
def test_error_of_a_few_roundings_fails_as_run(
    moving: Moving, head: Head, dtype: torch.dtype, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounds_badly(hidden: Tensor, *inputs: Tensor, **options: Any) -> Tensor:
        return mix(hidden, *inputs, **options) * (1 if hidden.dtype == torch.float64 else 1 + size)

    adapter, moved, to = moving(head, dtype=dtype)
    monkeypatch.setattr("vocabkit.adapter.model.mix", rounds_badly)
    proof = check_transfer(moved, adapter, to)
    assert proof.problems == ()
    assert passing(proof)[:2] == [True, False]
    assert not proof.passed


@pytest.mark.parametrize("fault", ["too long", "no bias", "scaled twice"])
def test_wrong_fold_fails(moving: Moving, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def folded(result: LangBridgeAdapter, dtype: torch.dtype) -> MLPProjector:
        made = fold(result, dtype)
        with torch.no_grad():
            made.linear_2.bias.mul_(fault != "no bias")
            for parameter in made.linear_2.parameters():
                parameter.mul_({"too long": 1 + 1e-6, "scaled twice": 0.5}.get(fault, 1))
        return made

    adapter, moved, to = moving("linear")
    monkeypatch.setattr(check, "fold", folded)
    proof = check_transfer(moved, adapter, to, features=normal(30, 7))
    assert passing(proof) == [True, True, False] * 2
    assert not proof.passed


def test_fault_that_only_real_features_show_fails(moving: Moving) -> None:
    adapter, moved, to = moving("linear")
    proof = check_transfer(moved, adapter, to, features=torch.full((3, 7), math.inf))
    assert passing(proof) == [True] * 3 + [False] * 3
    assert not proof.passed


def test_error_that_is_not_a_number_fails() -> None:
    assert not Check("as run", 1, math.nan, 1.0).passed
    assert not Check("as run", 1, math.inf, 1.0).passed
    assert Check("as run", 1, 1.0, 1.0).passed


@pytest.mark.parametrize("part", [*WEIGHTS, "embeddings"])
@pytest.mark.parametrize("head", HEADS)
def test_nan_in_any_part_fails_every_check(moving: Moving, head: Head, part: str) -> None:
    adapter, moved, to = moving(head)
    moved.state_dict()[part].view(-1)[-1] = torch.nan
    proof = check_transfer(moved, adapter, to)
    assert passing(proof) == [False, False]
    assert len(proof.problems) == 1


# ---- faults in weights and rows, whatever their effect -----------------------------------------------------------


@pytest.mark.parametrize("part", WEIGHTS)
def test_weight_that_differs_by_a_bit_is_reported(moving: Moving, part: str) -> None:
    adapter, moved, to = moving("linear")
    weights = moved.state_dict()[part].view(-1)
    weights[-1] = torch.nextafter(weights[-1], torch.tensor(9.0))
    proof = check_transfer(moved, adapter, to)
    assert not proof.passed
    assert proof.problems == (f"{part} differs from the adapter's",)


def without_effect(adapter: LangBridgeAdapter) -> LangBridgeAdapter:
    """The same with a head that gives no row any weight but one in the middle."""
    adapter = copied(adapter)
    with torch.no_grad():
        adapter.head.weight.zero_()
        adapter.head.bias.fill_(-1e4 if adapter.config.head == "softmax" else 0)
        adapter.head.bias[32] = 1
    return adapter


@pytest.mark.parametrize("row", [0, 9, 10, 63])
@pytest.mark.parametrize("head", HEADS)
def test_wrong_row_that_no_patch_uses_is_reported(
    moving: Moving, head: Head, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_BLOCK", 10)
    adapter, to = without_effect(moving(head)[0]), moving(head)[2]
    moved, _ = transfer(adapter, to)
    moved.embeddings[row] *= 1 + 1e-6
    proof = check_transfer(moved, adapter, to)
    assert passing(proof) == [True] * len(proof.checks)
    assert len(proof.problems) == 1
    assert proof.problems[0].startswith(f"row {row} is not the target's embedding of ")
    assert not proof.passed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("head", HEADS)
def test_neighbours_row_and_swapped_rows_are_reported(
    moving: Moving, head: Head, missing: Missing, dtype: torch.dtype
) -> None:
    adapter, moved, to = moving(head, missing, dtype)
    right = moved.embeddings.clone()
    beside = int(np.flatnonzero(moved.shared.mask_for(moved.llm))[3])
    beside_it = to.embeddings.rows(moved.shared.table[f"id:{moved.llm}"].to_numpy()[[beside]].astype(np.int64) + 1)
    for rows in ({beside: beside_it[0]}, {3: right[4], 4: right[3]}):
        moved.embeddings = right.clone()
        for row, wrong in rows.items():
            moved.embeddings[row] = wrong
        proof = check_transfer(moved, adapter, to)
        assert len(proof.problems) == 1
        assert "is not the target's embedding of" in proof.problems[0]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.05)])
def test_composed_row_may_differ_by_its_rounding_only(moving: Moving, dtype: torch.dtype, size: float) -> None:
    adapter, _, to = moving("linear", "compose", dtype)
    adapter = without_effect(adapter)
    moved, report = transfer(adapter, to, missing="compose")
    composed = report.examples[0].row
    right = moved.embeddings.clone()
    moved.embeddings[composed] = torch.nextafter(right[composed], torch.full_like(right[composed], 9.0))
    assert check_transfer(moved, adapter, to).passed
    moved.embeddings[composed] = right[composed] * (1 + size)
    assert check_transfer(moved, adapter, to).problems[0].startswith(f"row {composed} is not the target's embedding")
    found = int(np.flatnonzero(moved.shared.mask_for("some"))[0])
    moved.embeddings = right.clone()
    moved.embeddings[found] = torch.nextafter(right[found], torch.full_like(right[found], 9.0))
    assert check_transfer(moved, adapter, to).problems[0].startswith(f"row {found} is not the target's embedding")


def recorded_as(moved: LangBridgeAdapter, missing: Missing) -> LangBridgeAdapter:
    """The same, as if missing rows had been handled otherwise."""
    assert moved.config.transfer is not None
    moved.config = dataclasses.replace(
        moved.config, transfer=dataclasses.replace(moved.config.transfer, missing=missing)
    )
    return moved


def test_row_called_missing_that_is_not_is_reported(moving: Moving) -> None:
    adapter, moved, to = moving()
    shared = moved.shared.select(np.arange(1, 64))
    info = dataclasses.replace(moved.config.transfer, missing="drop")
    config = dataclasses.replace(moved.config, rows=63, shared_fingerprint=shared.fingerprint, transfer=info)
    state = moved.state_dict()
    state |= {name: state[name][1:] for name in ("head.weight", "head.bias", "embeddings")}
    proof = check_transfer(LangBridgeAdapter.from_parts(Path("fewer"), config, state, shared), adapter, to)
    assert proof.problems == ("63 rows, but the target has 64 of the adapter's",)
    assert proof.checks == ()


def test_other_handling_of_missing_rows_than_recorded_is_reported(moving: Moving) -> None:
    adapter, dropped, to = moving("linear", "drop")
    rows = dropped.config.rows
    proof = check_transfer(recorded_as(dropped, "compose"), adapter, to)
    assert proof.problems == (f"{rows} rows, but the target has 64 of the adapter's",)
    proof = check_transfer(recorded_as(dropped, "error"), adapter, to)
    assert proof.problems == (f"{64 - rows} rows are missing, but the transfer allowed none",)
    adapter, composed, to = moving("linear", "compose")
    proof = check_transfer(recorded_as(composed, "drop"), adapter, to)
    assert proof.problems == (f"64 rows, but the target has {rows} of the adapter's",)


# ---- roles, aliases and special tokens of the target -------------------------------------------------------------

SOURCE = chat_vocabulary("source", b"x", b"y", b"zz", roles=["bos", "eos", "pad"])


def moved_to(folder: Path, vocabulary: Vocabulary) -> tuple[LangBridgeAdapter, LangBridgeAdapter, Target]:
    """An adapter over the tokens and roles of SOURCE, moved to random rows of another vocabulary."""
    shared = align([SOURCE, dataclasses.replace(SOURCE, name="twin")], special_roles=True)
    adapter = LangBridgeAdapter(AdapterConfig.of(shared, llm="source", vision_width=7, hidden_width=5), shared)
    to = Target(vocabulary, open_embeddings(table_folder(folder, random_rows(len(vocabulary), 6))))
    return adapter, transfer(adapter, to, missing="drop")[0], to


def test_roles_are_looked_up_as_roles_and_swapped_ones_reported(tmp_path: Path) -> None:
    other = chat_vocabulary("other", b"zz", b"y", b"x", roles=["eos", "bos"])
    adapter, moved, to = moved_to(tmp_path / "llm", other)
    assert moved.config.rows == 5
    assert check_transfer(moved, adapter, to).passed
    bos, eos = moved.shared.roles["bos"], moved.shared.roles["eos"]
    moved.embeddings[[bos, eos]] = moved.embeddings[[eos, bos]]
    assert check_transfer(moved, adapter, to).problems[0].startswith("row 3 is not the target's embedding of")


def test_tokens_are_looked_up_as_text_not_as_special_tokens_or_aliases(tmp_path: Path) -> None:
    other = text_vocabulary("other", b"x", b"y", b"zz", b"x", b"<bos>", roles={"bos": 4})
    adapter, moved, to = moved_to(tmp_path / "llm", other)
    assert check_transfer(moved, adapter, to).passed
    moved.embeddings[0] = to.embeddings.rows(np.array([3]))[0]
    assert check_transfer(moved, adapter, to).problems[0].startswith("row 0 is not the target's embedding of 'x'")


def test_adapter_that_saw_tiles_passes_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_COLUMN_BYTES", 64)
    shared = align([SOURCE, dataclasses.replace(SOURCE, name="twin")])
    tiles = {"vision_aspect_ratio": "anyres", "vision_grid_pinpoints": ((28, 28), (28, 56)), "newline_width": 6}
    config = AdapterConfig.of(shared, llm="source", vision_width=7, hidden_width=5, **tiles)
    adapter = LangBridgeAdapter(config, shared)
    adapter.image_newline = normal(6)
    to = Target(SOURCE, open_embeddings(table_folder(tmp_path / "llm", random_rows(len(SOURCE), 6))))
    proof = check_transfer(transfer(adapter, to)[0], adapter, to)
    assert passing(proof) == [True] * 3
    assert proof.passed


# ---- other partners ----------------------------------------------------------------------------------------------


def test_other_adapter_tokenizer_or_width_is_reported(tmp_path: Path, moving: Moving) -> None:
    adapter, moved, to = moving()
    other = check_transfer(moved, sparse_adapter("linear"), to)
    assert other.problems == ("the result was made from an adapter with another shared vocabulary",)
    assert not other.passed
    stranger = copied(adapter)
    with torch.no_grad():
        for parameter in stranger.parameters():
            parameter += 1
    assert check_transfer(moved, stranger, to).problems == (
        "all of its weights differ from the adapter's: it was made from another one, or trained since",
    )
    (newer,) = check_transfer(moved, adapter, moving(missing="drop")[2]).problems
    assert "another tokenizer" in newer
    wide = Target(to.vocabulary, open_embeddings(table_folder(tmp_path / "wide", random_rows(80, 8))))
    assert check_transfer(moved, adapter, wide).problems == ("width 6, but the target's is 8",)


def test_adapter_that_was_not_transferred_raises(moving: Moving) -> None:
    adapter, _, to = moving()
    with pytest.raises(VocabkitError, match="not transferred: it has no embedding rows to check"):
        check_transfer(adapter, adapter, to)


@pytest.mark.parametrize("features", [normal(3, 8), normal(7), normal(0, 7), normal(2, 3, 7)])
def test_features_of_another_width_raise(moving: Moving, features: torch.Tensor) -> None:
    adapter, moved, to = moving("linear")
    with pytest.raises(VocabkitError, match="expected \\(N, 7\\)"):
        check_transfer(moved, adapter, to, features=features)
