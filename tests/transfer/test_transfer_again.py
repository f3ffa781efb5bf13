"""An adapter that was transferred, and perhaps trained further since, moves on to a third LLM."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from command_line import vocabkit_here
from partner_world import PartnerWorld, make_partner_world
from small_adapters import langbridge, normal
from tiny_llms import random_rows, table_folder, target
from torch.testing import assert_close
from vocabularies import text_vocabulary

from vocabkit.adapter.config import with_llm
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.errors import VocabkitWarning
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.transfer.check import check_transfer
from vocabkit.transfer.transfer import Target, transfer, visual_rms


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PartnerWorld:
    return make_partner_world(tmp_path_factory.mktemp("partners"))


@pytest.fixture
def llama(tmp_path: Path) -> Target:
    return target(tmp_path / "llama", "llama3")


@pytest.fixture
def mistral(tmp_path: Path) -> Target:
    return target(tmp_path / "mistral", "mistral-v3", width=9)


def trained_further(moved: LangBridgeAdapter) -> LangBridgeAdapter:
    """The adapter as a stage 2 leaves it, with other weights."""
    assert moved.config.output_info is not None
    tensors = {name: tensor if name == "embeddings" else 1.5 * tensor for name, tensor in moved.state_dict().items()}
    config = with_llm(moved.config, "llama3", moved.config.output_info)
    return LangBridgeAdapter.from_parts(Path("further"), config, tensors, moved.shared)


def test_adapter_that_was_only_moved_moves_on_as_from_the_first_adapter(llama: Target, mistral: Target) -> None:
    adapter = langbridge()
    first, _ = transfer(adapter, llama)
    with pytest.warns(VocabkitWarning, match="transferred to llama3 before, which may have cost it rows"):
        again, report = transfer(first, mistral, missing="compose")
    direct, _ = transfer(adapter, mistral, missing="compose")
    features = normal(5, 7)
    assert torch.equal(again(features), direct(features))
    assert (again.config.llm, again.llm, report.source) == ("qwen2", "mistral-v3", "qwen2")


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_adapter_trained_further_moves_on_with_its_weights_and_its_scale(
    llama: Target, mistral: Target, scale: float
) -> None:
    further = trained_further(transfer(langbridge("softmax"), llama, scale=scale)[0])
    with warnings.catch_warnings(action="error"):
        again, report = transfer(further, mistral, missing="compose")
    assert again.embeddings is not None
    features = normal(5, 7)
    assert_close(again(features), scale * further.coefficients(features) @ again.embeddings)
    assert (again.config.llm, again.config.llm_info) == ("llama3", further.config.output_info)
    assert (report.source, again.scale) == ("llama3", scale)
    proof = check_transfer(again, further, mistral)
    assert proof.passed, proof


def test_rows_that_the_first_target_lacked_are_gone(llama: Target, tmp_path: Path) -> None:
    own = langbridge().shared.tokens.to_pylist()
    few = Target(text_vocabulary("few", *own[:10]), open_embeddings(table_folder(tmp_path / "few", random_rows(10, 3))))
    narrow, _ = transfer(langbridge(), few, missing="drop")
    again, report = transfer(narrow, llama)
    assert report.rows == again.config.rows == narrow.config.rows == 10
    assert again.shared.tokens.to_pylist() == own[:10]


def test_length_of_the_tokens_is_measured_whatever_the_scale_was(llama: Target, mistral: Target) -> None:
    features = normal(50, 7)
    further = trained_further(transfer(langbridge(), llama, scale=100.0)[0])
    again, report = transfer(further, mistral, missing="compose", scale="rms", features=features)
    assert report.visual_rms == pytest.approx(report.norms.rms)
    assert visual_rms(again, features) == pytest.approx(report.norms.rms, rel=1e-4)


def test_stage_two_and_a_second_transfer_by_the_commands(world: PartnerWorld, tmp_path: Path) -> None:
    """One -> two, trained with two, moved back to one and proven."""
    adapter, two, one = str(world.folder / "moved"), f"two={world.folder / 'two'}", f"one={world.folder / 'one'}"
    fields = {"adapter": adapter, "llm": two, "shared": None, "features": str(world.folder / "features"), "steps": 2}
    recipe = world.small.write_recipe(tmp_path / "recipe.toml", **fields)
    for words in (
        ["train", recipe, "--out", tmp_path / "stage-2"],
        ["transfer", tmp_path / "stage-2/adapter", "--to", one, "--out", tmp_path / "back"],
        ["check", tmp_path / "back", tmp_path / "stage-2/adapter", "--to", one],
    ):
        done = vocabkit_here(tmp_path, *words)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "before" not in done.stderr
    back = load_adapter(tmp_path / "back")
    assert (back.config.llm, back.llm) == ("two", "one")


def test_llm_tuned_in_stage_two_is_the_partner_of_its_adapter(world: PartnerWorld, tmp_path: Path) -> None:
    two, features = f"two={world.folder / 'two'}", world.folder / "features"
    fields = {"adapter": str(world.folder / "moved"), "llm": two, "shared": None, "features": str(features)}
    recipe = world.small.write_recipe(tmp_path / "recipe.toml", **fields, steps=3, train_llm="full")
    done = vocabkit_here(tmp_path, "train", recipe, "--out", "out")
    assert done.returncode == 0, done.stderr
    measure = ["validate", world.small.data, "--features", features, "--limit", "2", "--device", "cpu"]
    tuned = vocabkit_here(tmp_path, *measure, "--adapter", "x=out/adapter", "--llm", "two=out/llm")
    assert (tuned.returncode, tuned.stderr) == (0, "")
    before = vocabkit_here(tmp_path, *measure, "--adapter", "x=out/adapter", "--llm", two)
    assert "other embedding rows than two had for the adapter" in before.stderr
    written = vocabkit_here(
        tmp_path, "export", "out/adapter", "--as", "llava", "--llm", "out/llm", "--vision", world.folder / "vision",
        "--out", "llava",
    )  # fmt: skip
    assert written.returncode == 0, written.stderr


def test_config_says_which_llm_it_was_trained_with_last(llama: Target) -> None:
    moved, _ = transfer(langbridge(), llama)
    assert moved.config.transfer is not None
    assert not moved.config.transfer.trained
    further = trained_further(moved)
    assert further.config.transfer == dataclasses.replace(moved.config.transfer, trained=True)
    assert "`qwen2`, then with `llama3`" in further.generate_model_card()
