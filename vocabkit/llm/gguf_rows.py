"""Embedding rows of GGUF files, dequantised as they are read.

In a file of its own, because importing gguf takes 4 MB, which a transfer from other files doesn't need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.embedding_names import near_names
from vocabkit.llm.weight_files import ByteRows
from vocabkit.tokenizer.gguf import EMBEDDING, read_tensor_table


@dataclass(frozen=True)
class GGUFRows:
    """Rows of the embedding table of a GGUF file; only those that are read are dequantised."""

    stored: ByteRows
    width: int
    type: GGMLQuantizationType
    dtype: torch.dtype = torch.float32

    @property
    def num_rows(self) -> int:
        return self.stored.count

    @property
    def rounding(self) -> float:
        """Bound on the relative error of the rows: 2^(2 - bits per number), at least that of bfloat16.

        Normally distributed rows measure half of that in Q8_0 to Q4_0, and up to 0.8 of it with outliers.
        """
        block, size = GGML_QUANT_SIZES[self.type]
        return 0.0 if self.type.name == "F32" else max(2.0 ** (2 - 8 * size / block), 2.0**-8)

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        rows = torch.from_numpy(dequantize(self.stored.read(ids), self.type))  # (n, bytes of a row) -> (n, D)
        into.index_copy_(0, torch.from_numpy(places), rows.to(into.dtype))


def open_gguf(path: Path, wanted: str | None = None) -> tuple[Mapping[str, Any], GGUFRows]:
    """Return the metadata of a GGUF file and its embedding table, which is named `wanted` or as llama.cpp names it.

    Raises VocabkitError: not a GGUF, no embedding table, an unsupported quantisation, or truncated.
    """
    metadata, tensors = read_tensor_table(path)
    name = wanted or EMBEDDING
    table = tensors.get(name)
    if table is None and wanted is not None:
        near = near_names(tensors, None, lambda name: tensors[name].shape)
        raise VocabkitError(f"{path}: no tensor {quote(wanted)} in it; {near}")
    if table is None:
        part = (
            " in this part of a split model; give the part that has it" if "split.count" in metadata else "; not an LLM"
        )
        raise VocabkitError(f"{path}: no {EMBEDDING} in it{part}")
    kind, block, block_bytes = _quantisation(path, table.type)
    if f"{name.removesuffix('weight')}scale" in tensors:
        raise VocabkitError(
            f"{path}: its embeddings have a scale in a tensor of its own, which is not read; not supported"
        )
    if len(table.shape) != 2 or not prod(table.shape) or table.shape[1] % block:
        raise VocabkitError(
            f"{path}: {quote(name)} has shape {table.shape}, expected (rows, width) in blocks of {block}"
        )
    rows, width = table.shape
    stored = ByteRows(path, table.start, rows, width // block * block_bytes)
    if stored.start + rows * stored.size > path.stat().st_size:
        raise VocabkitError(f"{path}: truncated: {name} reaches beyond its end; download it again")
    return metadata, GGUFRows(stored, width, kind)


def _quantisation(path: Path, number: int) -> tuple[GGMLQuantizationType, int, int]:
    """Return the quantisation of this number, and the numbers and bytes of a block.

    Raises VocabkitError: the gguf package can't decode it.
    """
    name = f"number {number}"
    try:
        kind = GGMLQuantizationType(number)
        name = kind.name
        block, size = GGML_QUANT_SIZES[kind]
        dequantize(np.zeros((1, size), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise VocabkitError(
            f"{path}: embeddings quantised as {name}, which the gguf package ({version('gguf')}) can't decode; "
            "update it, or take another GGUF of the model"
        ) from error
    return kind, block, size
