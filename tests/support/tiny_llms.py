"""LLMs of which only the embedding table is there: random rows in the layout of a transformers model folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vocabkit.llm.embeddings import open_embeddings
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.transfer import Target


def table_folder(folder: Path, rows: Tensor) -> Path:
    """A folder with `rows` as the embedding table of a Llama."""
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(rows)}
    config |= {"hidden_size": rows.shape[1], "dtype": str(rows.dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"model.embed_tokens.weight": rows}, folder / "model.safetensors")
    return folder


def random_rows(count: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 7) -> Tensor:
    """(count, width) random numbers."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def target(folder: Path, name: str, width: int = 6, dtype: torch.dtype = torch.float32) -> Target:
    """The catalog tokenizer `name` with random embedding rows in `folder`."""
    vocabulary = resolve(name).vocabulary
    table_folder(folder, random_rows(len(vocabulary), width, dtype))
    return Target(vocabulary, open_embeddings(folder))
