"""EmbeddingTable: the rows that an LLM looks its token ids up in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vocabkit.embeddings.scaling import Scale
from vocabkit.errors import VocabkitError
from vocabkit.vocabulary import Kind, Vocabulary

_CHUNK = 1 << 20
"""Bytes of the result that are worked on at a time: they stay in the processor's cache from reading to checking, and
what the check itself allocates stays small."""


class StoredRows(Protocol):
    """A matrix in a file, of which rows can be read."""

    @property
    def num_rows(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers once read."""

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        """Write row ids[i] to into[places[i]], in the dtype of `into`.

        Args:
            ids: (n,) int64, n > 0, each below `num_rows`, ascending; they may repeat.
            into: (N, D), contiguous.
            places: (n,) int64 rows of it, in any order.
        """


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """The input embeddings of one LLM, left on disk. Make it with `open_embeddings`."""

    source: str
    """What was read, without machine-specific paths."""
    dtype: torch.dtype
    """In which the model runs, and `rows` answers."""
    stored: StoredRows
    scale: Scale | None
    """What the model multiplies its embeddings by, None for nothing."""
    encoder: str | None = None
    """The family of the model, if it is an encoder such as BERT, which can't go on with a text."""

    @property
    def num_rows(self) -> int:
        """Rows of the table. May exceed the tokenizer's size (padding rows)."""
        return self.stored.num_rows

    @property
    def width(self) -> int:
        """D, the LLM's hidden size."""
        return self.stored.width

    def rows(self, ids: np.ndarray | Tensor | Sequence[int], *, tokens: Vocabulary | None = None) -> Tensor:
        """(R, D) in `dtype`: what the LLM puts in for these ids, that is, what it wants as `inputs_embeds`.

        Bit for bit the model's own `get_input_embeddings()(ids)`, its multiplier and its rounding included. Where a
        model multiplies only what it looked up itself, and not what it is given (MiniCPM, Falcon-H1), the multiplier
        is included too.

        Args:
            ids: (R,) integers, in any order, repeated or not.
            tokens: the LLM's vocabulary. With it, ids that are no token of it are refused: rows beyond it are padding.

        Raises:
            VocabkitError: an id that is negative, beyond the rows or no token, or whose row is NaN or infinite.
        """
        return self.rows_and_norms(ids, tokens=tokens)[0]

    def rows_and_norms(
        self, ids: np.ndarray | Tensor | Sequence[int], *, tokens: Vocabulary | None = None
    ) -> tuple[Tensor, Tensor]:
        """`rows`, and their Euclidean norms (R,) in float32, which come out of the check for NaN at no further cost."""
        wanted = np.asarray(ids)
        if wanted.ndim != 1 or not (np.issubdtype(wanted.dtype, np.integer) or not wanted.size):
            raise VocabkitError(f"token ids are {wanted.dtype} of shape {wanted.shape}; expected integers (R,)")
        wanted = wanted.astype(np.int64)
        self._check(wanted, tokens)
        result = torch.empty(len(wanted), self.width, dtype=self.dtype)
        norms = torch.empty(len(wanted))
        order, step = np.argsort(wanted, kind="stable"), max(1, _CHUNK // (self.width * self.dtype.itemsize))
        block = torch.empty(min(step, len(order)), self.width, dtype=self.dtype)
        for start in range(0, len(order), step):
            places = order[start : start + step]
            in_a_row = bool((np.diff(places) == 1).all())
            rows = result[places[0] : places[-1] + 1] if in_a_row else block[: len(places)]  # (P, D)
            self.stored.read_into(wanted[places], rows, np.arange(len(places)))
            if self.scale is not None:
                self.scale.apply_(rows)
            norms.numpy()[places] = self._norms(rows, wanted[places])
            if not in_a_row:
                _bytes(result)[places] = _bytes(rows)  # three times as fast as torch's index_copy_
        return result, norms

    def _norms(self, rows: Tensor, ids: np.ndarray) -> np.ndarray:
        """(P, D) -> (P,). Raises VocabkitError: a row that is not finite."""
        wide = torch.promote_types(self.dtype, torch.float32)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
        if not norms.isfinite().all():
            bad = int(ids[int((~norms.isfinite()).nonzero()[0])])
            raise VocabkitError(f"{self.source}: row {bad} holds NaN or infinite numbers; the file is damaged")
        return norms.float().numpy()

    def _check(self, ids: np.ndarray, tokens: Vocabulary | None) -> None:
        outside = (ids < 0) | (ids >= self.num_rows)
        if outside.any():
            raise VocabkitError(
                f"{self.source}: token id {ids[outside][0]} is outside its {self.num_rows} rows; "
                "are tokenizer and weights of the same model?"
            )
        if tokens is None:
            return
        padding = ids >= len(tokens)
        if padding.any():
            raise VocabkitError(
                f"{self.source}: row {ids[padding][0]} is padding: {tokens.name} has only {len(tokens)} tokens"
            )
        unused = tokens.kinds[ids] == Kind.UNUSED
        if unused.any():
            raise VocabkitError(f"{self.source}: id {ids[unused][0]} is no token of {tokens.name}: reserved, or a hole")


def _bytes(rows: Tensor) -> np.ndarray:
    """(P, bytes of a row) uint8: the same memory."""
    return rows.view(torch.uint8).numpy()
