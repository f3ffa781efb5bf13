"""safetensors and torch.save files: found where people keep them, and only the rows asked for are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from table_files import (
    NAME,
    bytes_read,
    index_folder,
    random_table,
    safetensors_folder,
    write_config,
)
from tiny_models import assert_same_bits

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


# ---- no more than the rows ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes with /proc")
def test_only_requested_rows_are_read(tmp_path: Path) -> None:
    table = open_embeddings(safetensors_folder(tmp_path, {NAME: random_table(4000, 1024, torch.bfloat16)}))
    before = bytes_read()
    table.rows(torch.arange(0, 4000, 40))
    assert 100 * 2048 <= bytes_read() - before < 100 * 2048 + 4096
