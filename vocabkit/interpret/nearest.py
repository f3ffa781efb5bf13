"""What the head of an adapter says of images: its largest coefficients, and where their mass is.

Sizes: N patches of an image, Dv width of features, V rows of the head; k and m kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.mixing.top import largest
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import EmbeddingTable
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

_COEFFICIENTS = 2**23
"""In memory at a time: 32 MiB in float32."""


class HeadReading(NamedTuple):
    """The fields of a `Reading` that are about the head."""

    rows: np.ndarray
    coefficients: np.ndarray
    entropy: np.ndarray | None
    image_rows: np.ndarray | None
    image_mass: np.ndarray | None


@torch.no_grad()
def read_head(adapter: LangBridgeAdapter, features: Tensor, k: int, m: int) -> HeadReading:
    """Read the (N, Dv) features of one image. The (N, V) coefficients are never in memory at once unless they are few.

    k and m are at most V.
    """
    softmax = adapter.config.head == "softmax"
    sums = torch.zeros(adapter.config.rows)
    parts: list[tuple[Tensor, Tensor]] = []
    entropy: list[Tensor] = []
    for block in features.split(max(1, _COEFFICIENTS // adapter.config.rows)):
        p = adapter.coefficients(block).float()  # (P, V)
        parts.append(largest(p, k))
        if softmax:
            sums += p.sum(dim=0)
            entropy.append(torch.special.entr(p).sum(dim=1))
    coefficients, rows = (torch.cat(part) for part in zip(*parts, strict=True))
    found = rows.int().numpy(), coefficients.numpy()
    if not softmax:
        return HeadReading(*found, None, None, None)
    mass, mass_rows = (sums / len(features)).topk(m)
    return HeadReading(*found, torch.cat(entropy).numpy(), mass_rows.int().numpy(), mass.numpy())


# MERGED: The nearest rows of a whole embedding table, by cosine similarity: exact, in blocks, without loading a model.
# MERGED:
# MERGED: Sizes: Q queries of width D; V rows that are searched; k kept of each query.

_ROWS = 8192
"""Rows of the table at a time."""
_QUERIES = 1024
"""Queries at a time: with the rows 32 MiB of cosines."""


def searched_ids(vocabulary: Vocabulary, table: EmbeddingTable) -> np.ndarray:
    """(V,) int64, ascending: the ids with a token and a row. Left out are reserved ids, holes and padding rows."""
    return np.flatnonzero(vocabulary.kinds[: table.num_rows] != Kind.UNUSED).astype(np.int64)


def nearest_tokens(
    queries: Tensor,
    table: EmbeddingTable,
    ids: np.ndarray,
    k: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k of `ids` whose embeddings have the largest cosine with each query, in float32 throughout.

    Every row is read once and its norm computed once, however many queries there are; never in memory at once are the
    table and the Q x V cosines. A row of zeros has no direction and is never found; a query of zeros has cosine 0 with
    all rows.

    Args:
        queries: (Q, D) floating point.
        ids: (V,) ascending token ids with a row, of `searched_ids`.
        progress: called with (rows done, rows in total).

    Returns:
        ids (Q, k) int64 and cosines (Q, k) float32, largest first. Which of several equal cosines come first, or are
        kept at all, is not specified. With fewer than k rows that are not zero, ids are -1 and cosines -inf at the end.

    Raises:
        VocabkitError: queries of another width, not finite, k < 1, or rows that can't be read.
    """
    if queries.ndim != 2 or queries.shape[1] != table.width:
        raise VocabkitError(f"{table.source}: visual tokens are {tuple(queries.shape)}; expected (Q, {table.width})")
    if k < 1:
        raise VocabkitError(f"{k} nearest tokens: must be at least 1")
    if not queries.isfinite().all():
        raise VocabkitError("visual tokens are NaN or infinite; is the adapter damaged?")
    directions = functional.normalize(queries.float(), dim=1)  # (Q, D)
    found = torch.full((len(queries), k), -1, dtype=torch.int64)
    best = torch.full((len(queries), k), -torch.inf)
    buffer = torch.empty(_QUERIES * _ROWS)
    for start in range(0, len(ids), _ROWS):
        block = ids[start : start + _ROWS]
        rows, norms = table.rows_and_norms(block)  # (B, D), (B,)
        units = rows.float().div_(norms[:, None])
        zero = norms == 0
        for at in range(0, len(queries), _QUERIES):
            part = slice(at, at + _QUERIES)
            cosines = _product(directions[part], units, buffer)  # (P, D) @ (D, B) -> (P, B)
            cosines[:, zero] = -torch.inf
            values, places = largest(cosines, min(k, len(block)))
            candidates = torch.cat([best[part], values], dim=1)  # (P, 2 k)
            names = torch.cat([found[part], torch.from_numpy(block)[places]], dim=1)
            best[part], order = candidates.topk(k, dim=1)
            found[part] = names.gather(1, order)
        if progress:
            progress(start + len(block), len(ids))
    found[best == -torch.inf] = -1
    return found, best.clamp_(max=1.0)


def _product(left: Tensor, right: Tensor, buffer: Tensor) -> Tensor:
    """Left @ right.T in `buffer`, without new memory."""
    shape = len(left), len(right)
    return torch.mm(left, right.T, out=buffer[: shape[0] * shape[1]].view(shape))
