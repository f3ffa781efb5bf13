"""Words for visual tokens: the largest coefficients of a head, and the nearest rows of a whole embedding table.

Sizes: N patches of an image, Dv width of features, V rows of the head or of the table, Q queries of width D.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.mixing.top import largest
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.embeddings import EmbeddingTable
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

_COEFFICIENTS = 2**23
"""Coefficients in memory at a time: 32 MiB in float32."""
_ROWS = 8192
"""Rows of the table at a time."""
_QUERIES = 1024
"""Queries at a time; with as many rows as above, 32 MiB of cosines."""


class HeadReading(NamedTuple):
    """The fields of a `Reading` about the head."""

    rows: np.ndarray
    coefficients: np.ndarray
    entropy: np.ndarray | None
    image_rows: np.ndarray | None
    image_mass: np.ndarray | None


@torch.no_grad()
def read_head(adapter: LangBridgeAdapter, features: Tensor, k: int, m: int) -> HeadReading:
    """Read the (N, Dv) features of one image, in blocks: the (N, V) coefficients are not in memory at once.

    k and m are at most V, the rows of the head.
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


@torch.no_grad()
def coefficients_of(adapter: LangBridgeAdapter, features: Tensor, rows: np.ndarray) -> np.ndarray:
    """(N, Dv) features of one image, (m,) rows -> (N, m) float32: the coefficients of these rows, in blocks."""
    blocks = features.split(max(1, _COEFFICIENTS // adapter.config.rows))
    found = [adapter.coefficients(block)[:, torch.from_numpy(rows).long()].float().cpu() for block in blocks]
    return torch.cat(found).numpy()


def searched_ids(vocabulary: Vocabulary, table: EmbeddingTable) -> np.ndarray:
    """(V,) int64, ascending: the ids with both a token and a row. Reserved ids, holes and padding rows have none."""
    return np.flatnonzero(vocabulary.kinds[: table.num_rows] != Kind.UNUSED).astype(np.int64)


def nearest_tokens(
    queries: Tensor,
    table: EmbeddingTable,
    ids: np.ndarray,
    k: int,
    step: str = "tokens",
    progress: Progress = no_progress,
) -> tuple[Tensor, Tensor]:
    """Find the k of `ids` whose embeddings have the largest cosine with each query, exactly, in float32.

    Each row is read once, however many queries there are. Neither the table nor all Q x V cosines are ever in memory.
    A row of zeros has no direction and is never found; a query of zeros has cosine 0 with all rows.

    Args:
        queries: (Q, D) floating point.
        ids: (V,) ascending token ids, from `searched_ids`.
        progress: counts the rows searched, under the name `step`.

    Returns:
        ids (Q, k) int64 and cosines (Q, k) float32, largest first. The order of equal cosines, and which of
        them are kept, is unspecified. With fewer than k nonzero rows, the last ids are -1 and the last cosines -inf.

    Raises:
        VocabkitError: queries that are not finite, or rows that can't be read.
    """
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
        progress(step, start + len(block), len(ids))
    found[best == -torch.inf] = -1
    return found, best.clamp_(max=1.0)


def _product(left: Tensor, right: Tensor, buffer: Tensor) -> Tensor:
    """Compute `left @ right.T` in `buffer`: the same memory for every block."""
    shape = len(left), len(right)
    return torch.mm(left, right.T, out=buffer[: shape[0] * shape[1]].view(shape))
