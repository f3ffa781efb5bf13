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

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> a dtype of that size that numpy has, too."""
_CHUNK = 4 << 20
"""Bytes of the result that are worked on at a time: they stay in the processor's cache from reading to checking."""


class StoredRows(Protocol):
    """A matrix in a file, of which rows can be read."""

    @property
    def num_rows(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype:
        """Of what `read` returns."""

    def read(self, ids: np.ndarray) -> Tensor:
        """(n, D) rows, in memory of their own. ids: (n,) int64, each below `num_rows`, ascending."""


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
        into = result.view(_BITS[self.dtype.itemsize]).numpy()  # whose assignment to rows takes a third of torch's time
        order = np.argsort(wanted, kind="stable")
        step = max(1, _CHUNK // max(1, self.width * self.dtype.itemsize))
        for start in range(0, len(order), step):
            places = order[start : start + step]
            distinct, which = np.unique(wanted[places], return_inverse=True)
            rows, lengths = self._as_the_model(distinct)  # (U, D), (U,)
            bits = rows.view(_BITS[self.dtype.itemsize]).numpy()
            into[places] = bits if len(distinct) == len(places) else bits[which]  # (U, D) -> (P, D)
            norms[torch.from_numpy(places)] = lengths[torch.from_numpy(which)]
        return result, norms

    def _as_the_model(self, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rows (n, D) and their norms (n,)."""
        rows = self.stored.read(ids).to(self.dtype)
        if self.scale is not None:
            self.scale.apply_(rows)
        wide = torch.promote_types(self.dtype, torch.float32)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
        if not norms.isfinite().all():
            bad = int(ids[int((~norms.isfinite()).nonzero()[0])])
            raise VocabkitError(f"{self.source}: row {bad} holds NaN or infinite numbers; the file is damaged")
        return rows, norms.float()

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
