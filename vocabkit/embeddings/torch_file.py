"""Files of torch.save: memory-mapped, and never executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vocabkit.embeddings.safetensors_file import DTYPES
from vocabkit.errors import VocabkitError, quote
from vocabkit.tensor_files import read_torch


@dataclass(frozen=True, eq=False)
class TorchRows:
    """A memory-mapped matrix."""

    stored: Tensor

    @property
    def num_rows(self) -> int:
        return self.stored.shape[0]

    @property
    def width(self) -> int:
        return self.stored.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.stored.dtype

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        rows = self.stored.index_select(0, torch.from_numpy(ids))
        into.index_copy_(0, torch.from_numpy(places), rows.to(into.dtype))


def read_tensors(path: Path) -> Mapping[str, Any]:
    """Name -> tensor. Raises VocabkitError: see `read_torch`; or something else than tensors by name."""
    content = read_torch(path)
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise VocabkitError(f"{path}: holds no tensors by name; expected the weights of a model")
    return content


def rows_of(tensors: Mapping[str, Any], name: str, path: Path) -> TorchRows:
    """The matrix `name`. Raises VocabkitError: not there, or not a matrix of floats."""
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise VocabkitError(f"{path}: no dense tensor {quote(name)} in it")
    if tensor.ndim != 2 or not tensor.numel():
        raise VocabkitError(f"{path}: {quote(name)} has shape {tuple(tensor.shape)}, expected a matrix (rows, width)")
    if tensor.dtype not in DTYPES.values():
        raise VocabkitError(f"{path}: {quote(name)} is stored as {tensor.dtype}; take weights that are not quantised")
    return TorchRows(tensor.detach())
