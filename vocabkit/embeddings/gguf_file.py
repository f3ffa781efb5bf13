"""GGUF: quantised rows, of which only those asked for are dequantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from vocabkit.embeddings.byte_rows import ByteRows
from vocabkit.errors import VocabkitError
from vocabkit.readers.gguf import EMBEDDING, read_tensor_table

_READ = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@dataclass(frozen=True)
class GGUFRows:
    """The embedding table of a GGUF file."""

    stored: ByteRows
    width: int
    type: GGMLQuantizationType
    dtype: torch.dtype = torch.float32

    @property
    def num_rows(self) -> int:
        return self.stored.count

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        rows = torch.from_numpy(dequantize(self.stored.read(ids), self.type))  # (n, bytes of a row) -> (n, D)
        into.index_copy_(0, torch.from_numpy(places), rows.to(into.dtype))


def open_gguf(path: Path) -> tuple[Mapping[str, Any], GGUFRows]:
    """The metadata of a GGUF file and its embedding table.

    Raises VocabkitError: not a GGUF, without an embedding table, quantised in a way that is not known, or truncated.
    """
    metadata, tensors = read_tensor_table(path)
    table = tensors.get(EMBEDDING)
    if table is None:
        part = (
            " in this part of a split model; give the part that has it" if "split.count" in metadata else "; not an LLM"
        )
        raise VocabkitError(f"{path}: no {EMBEDDING} in it{part}")
    try:
        kind = GGMLQuantizationType(table.type)
    except ValueError:
        kind = None
    if kind is None or kind.name not in _READ:
        name = f"number {table.type}" if kind is None else kind.name
        raise VocabkitError(
            f"{path}: embeddings quantised as {name}, which is not read; expected one of {', '.join(_READ)}"
        )
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if len(table.shape) != 2 or not prod(table.shape) or table.shape[1] % block:
        raise VocabkitError(f"{path}: {EMBEDDING} has shape {table.shape}, expected (rows, width) in blocks of {block}")
    rows, width = table.shape
    stored = ByteRows(path, table.start, rows, width // block * block_bytes)
    if stored.start + rows * stored.size > path.stat().st_size:
        raise VocabkitError(f"{path}: truncated: {EMBEDDING} reaches beyond its end; download it again")
    return metadata, GGUFRows(stored, width, kind)
