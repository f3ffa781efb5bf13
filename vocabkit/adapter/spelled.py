"""Spelled visual tokens: an image's words in order, as the tokens that an LLM spells them by, instead of their mix.

Eq. 6 made hard. The coefficients of all patches, averaged, say which words an image is about, and the LLM reads the
same embeddings as for text.
"""

from __future__ import annotations

from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.config import Spelled
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings

SEPARATOR = b","
"""Stands after each word that is spelled out, because LLMs read a list better than words in a row: by 0.1 nats."""
LIFT = 2
"""A word is about a picture if its mean coefficient is this many times its share of the corpus. `a`, `on` and
`background` stand in every caption and every picture, and would take the places of words that tell pictures apart."""


def compose(embeddings: Tensor, spellings: Spellings) -> Tensor:
    """(I, D) embeddings of the ids that spell rows of V_shared -> (V, D): the mean of each row's own, rounded once.

    A row of one id, a token, is its embedding as it is.
    """
    if len(spellings.ids) == len(spellings):
        return embeddings
    lengths = torch.from_numpy(spellings.lengths).to(embeddings.device)
    mean = torch.segment_reduce(embeddings.double(), "mean", lengths=lengths, axis=0)
    return mean.to(embeddings.dtype)


def words_in_order(p: Tensor, settings: Spelled, usual: Tensor) -> list[int]:
    """(N, V) coefficients of an image's patches, shares of 1 -> rows, at least one: those whose mean is not below the
    threshold and at least `LIFT` times the usual one, largest first or, in order `place`, by the patch where each is
    largest.

    Args:
        usual: (V,) share of each row in the corpus, from `usual_shares`.
    """
    shares, rows = p.mean(dim=0).sort(descending=True, stable=True)
    told = (shares >= settings.threshold) & (shares >= LIFT * usual.to(rows.device)[rows])
    chosen = rows[told] if told.any() else rows[:1]
    found: list[int] = chosen.tolist()
    if settings.order == "place":
        places = p[:, chosen].cpu().numpy().argmax(axis=0)  # the first of equals, which torch does not promise
        found = [found[at] for at in np.argsort(places, kind="stable")]
    return found


def counts_of(shared: SharedVocabulary) -> Tensor:
    """(V,) int64: how often each row occurs in the corpus that V_shared was counted on; 0 if it was not."""
    return torch.zeros(len(shared), dtype=torch.int64) if shared.counts is None else torch.from_numpy(shared.counts)


def usual_shares(counts: Tensor) -> Tensor:
    """(V,) counts -> (V,) float64: the share of each row in the corpus; 0 if nothing was counted."""
    return counts.double() / counts.sum().clamp(min=1)


def spell_out(rows: list[int], spellings: Spellings, positions: int, *, separated: bool) -> np.ndarray:
    """(P,) int64, indices into `spellings.ids`, and its length for a separator: the ids of `rows`, one row after the
    other, each followed by a separator if they are `separated`; again from the first where they end before `positions`,
    and cut off there.
    """
    bounds, last = spellings.offsets.tolist(), [len(spellings.ids)] * separated
    places = [place for row in rows for place in (*range(bounds[row], bounds[row + 1]), *last)]
    return np.fromiter(islice(cycle(places), positions), np.int64, positions)
