"""safetensors and torch.save files: found where people keep them, and only the rows asked for are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file
from table_files import (
    NAME,
    bytes_read,
    index_folder,
    random_table,
    safetensors_folder,
    write_config,
    write_gguf,
)
from tiny_models import assert_same_bits

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings

WEIGHT = random_table()
IDS = torch.tensor([49, 0, 17, 18, 19, 3])
ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


# ---- where weights are looked for --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("file", ["model.safetensors", ""])
def test_safetensors_file_or_folder_is_read(file: str, dtype: torch.dtype, tmp_path: Path) -> None:
    weight = random_table(dtype=dtype)
    safetensors_folder(tmp_path, {"a": torch.ones(3), NAME: weight, "z": torch.ones(5, 5)})
    assert_same_bits(open_embeddings(tmp_path / file).rows(IDS), weight[IDS])


@pytest.mark.parametrize("file", ["model.safetensors.index.json", ""])
def test_shard_named_by_the_index_is_read(file: str, tmp_path: Path) -> None:
    index_folder(tmp_path, {"lm_head.weight": "model-2.safetensors", NAME: "model-1.safetensors"})
    shard = safetensors_folder(tmp_path / "x", {NAME: WEIGHT}) / "model.safetensors"
    shard.rename(tmp_path / "model-1.safetensors")
    assert_same_bits(open_embeddings(tmp_path / file).rows(IDS), WEIGHT[IDS])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth"])
def test_torch_file_is_read(name: str, tmp_path: Path) -> None:
    torch.save({NAME: WEIGHT, "other": torch.ones(2)}, write_config(tmp_path) / name)
    assert_same_bits(open_embeddings(tmp_path / name).rows(IDS), WEIGHT[IDS])


def test_torch_shards_are_read(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {NAME: "part-1.bin"}}))
    torch.save({NAME: WEIGHT}, tmp_path / "part-1.bin")
    assert_same_bits(open_embeddings(tmp_path).rows(IDS), WEIGHT[IDS])


def test_shard_may_be_a_symbolic_link(tmp_path: Path) -> None:
    elsewhere = safetensors_folder(tmp_path / "blobs", {NAME: WEIGHT}) / "model.safetensors"
    folder = index_folder(tmp_path / "snapshot", {NAME: "model-1.safetensors"})
    (folder / "model-1.safetensors").symlink_to(elsewhere)
    assert_same_bits(open_embeddings(folder).rows(IDS), WEIGHT[IDS])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_table_inside_a_checkpoint_of_a_trainer_is_read(key: str, tmp_path: Path) -> None:
    content = {"epoch": 1, key: {f"module._orig_mod.{NAME}": WEIGHT}}
    torch.save(content, write_config(tmp_path) / "pytorch_model.bin")
    assert_same_bits(open_embeddings(tmp_path).rows(IDS), WEIGHT[IDS])


# ---- tables under other names ------------------------------------------------------------------------------------


def write_as(form: str, folder: Path, name: str, **config: int) -> Path:
    """`WEIGHT` under `name` in a folder or file of this form."""
    write_config(folder, **config)
    match form:
        case "safetensors":
            return safetensors_folder(folder, {name: WEIGHT, "norm": torch.ones(3)}, **config)
        case "torch":
            torch.save({name: WEIGHT}, folder / "pytorch_model.bin")
        case "shards":
            save_file({name: WEIGHT}, folder / "1.safetensors")
            save_file({"lm_head.weight": WEIGHT + 1}, folder / "2.safetensors")
            shards = {name: "1.safetensors", "lm_head.weight": "2.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        case "gguf":
            return write_gguf(folder / "model.gguf", WEIGHT.numpy(), GGMLQuantizationType.F32, name=name)
    return folder


@pytest.mark.parametrize("form", ["safetensors", "torch", "shards"])
def test_table_is_told_by_role_and_size_in_every_format(form: str, tmp_path: Path) -> None:
    folder = write_as(form, tmp_path, "brain.TokenEmbedder.weight", vocab_size=50, width=8)
    assert_same_bits(open_embeddings(folder).rows(IDS), WEIGHT[IDS])


@pytest.mark.parametrize("form", ["safetensors", "torch", "shards", "gguf"])
def test_table_that_the_user_names_is_read_in_every_format(form: str, tmp_path: Path) -> None:
    source = write_as(form, tmp_path, "brain.rows")
    assert_same_bits(open_embeddings(source, embedding_tensor="brain.rows").rows(IDS), WEIGHT[IDS])
    with pytest.raises(
        VocabkitError, match=r"no tensor 'brain' in it; tensors of 50 rows are 'brain\.rows \(50 x 8\)'"
    ):
        open_embeddings(source, embedding_tensor="brain")


def test_naming_the_table_does_not_excuse_an_unknown_multiplier(tmp_path: Path) -> None:
    safetensors_folder(tmp_path, {"brain.rows": WEIGHT}, model_type="brain", embedding_multiplier=3.0)
    with pytest.raises(VocabkitError, match="'brain' is not known and its 'embedding_multiplier' may multiply"):
        open_embeddings(tmp_path, embedding_tensor="brain.rows")


# ---- no more than the rows ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes with /proc")
def test_only_requested_rows_are_read(tmp_path: Path) -> None:
    table = open_embeddings(safetensors_folder(tmp_path, {NAME: random_table(4000, 1024, torch.bfloat16)}))
    before = bytes_read()
    table.rows(torch.arange(0, 4000, 40))
    assert 100 * 2048 <= bytes_read() - before < 100 * 2048 + 4096
