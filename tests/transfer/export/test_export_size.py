"""The size in the report of an export is that of what is then written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from small_models import VOCABULARY, llama, llm, projector
from vision_models import clip, siglip

from vocabkit.adapter.model import load_adapter
from vocabkit.transfer.export.export import export_size
from vocabkit.transfer.export.llava import export_llava
from vocabkit.transfer.export.mmproj import export_mmproj
from vocabkit.transfer.published import export_mm_projector


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_of_projectors_is_foreseen(tmp_path: Path, dtype: torch.dtype) -> None:
    ours = projector(dtype=dtype)
    ours.save(tmp_path / "a.pt")
    written = load_adapter(tmp_path / "a.pt").state_dict().values()
    assert export_size("projector", ours.config, dtype) == sum(tensor.nbytes for tensor in written)
    export_mm_projector(ours, tmp_path / "mm_projector.bin")
    padded = torch.load(tmp_path / "mm_projector.bin", weights_only=True).values()
    assert export_size("mm_projector", ours.config, dtype) == sum(tensor.nbytes for tensor in padded)


@pytest.mark.parametrize("family", [clip, siglip])
def test_size_of_a_gguf_is_foreseen(tmp_path: Path, family: Callable[[Path], Path]) -> None:
    vision, ours = family(tmp_path / "vision"), projector(hidden=100)
    export_mmproj(ours, vision, tmp_path / "mmproj.gguf")
    written = sum(tensor.n_bytes for tensor in GGUFReader(tmp_path / "mmproj.gguf").tensors)
    assert export_size("mmproj", ours.config, torch.bfloat16, vision) == written


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_of_a_llava_checkpoint_is_foreseen(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    config = llama(vocab_size=VOCABULARY + 1, tie_word_embeddings=tied)
    vision, source = clip(tmp_path / "vision"), llm(tmp_path / "llm", config, dtype=dtype, shard="40KB")
    export_llava(projector(), vision, source, tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    size = export_size("llava", projector().config, torch.float32, vision, f"name={source}")
    assert size == index["metadata"]["total_size"]
