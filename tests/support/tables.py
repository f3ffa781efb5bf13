"""Embedding tables in memory, and the nearest rows by their definition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vocabkit.llm.embeddings import EmbeddingTable
from vocabkit.llm.weight_files import StoredRows


@dataclass
class MemoryRows:
    """As a file."""

    rows: Tensor

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        into[torch.from_numpy(places)] = self.rows[torch.from_numpy(ids)].to(into.dtype)


@dataclass
class CountedRows:
    """Rows in a file, and how many of them have been read."""

    stored: StoredRows
    read: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.stored, name)

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        self.read += len(ids)
        self.stored.read_into(ids, into, places)


def table(rows: Tensor) -> EmbeddingTable:
    """A table with these rows."""
    return EmbeddingTable("the table", rows.dtype, MemoryRows(rows), None)


def by_definition(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One query after the other, in float64: places and cosines of the k nearest rows, which are not zero."""
    places, cosines = [], []
    for query in queries.double():
        values = torch.tensor([float(query @ row) / float(query.norm() * row.norm()) for row in rows.double()])
        found = values.sort(descending=True)
        places.append(found.indices[:k])
        cosines.append(found.values[:k])
    return torch.stack(places), torch.stack(cosines)
