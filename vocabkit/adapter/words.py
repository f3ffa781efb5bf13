"""An image's visual tokens as text, for LLMs that take no embeddings: the words that its patches choose.

Rows that are words are text as they are. Rows that are tokens may be pieces of words: a piece is glued to the word
whose coefficients are most alike over the patches, because the pieces of a name are chosen where the named thing is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.spelled import counts_of, usual_shares, words_in_order
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import SharedVocabulary

READING = "A vision model saw these words in a picture, the surest first: <image>. Some may be wrong."
"""What tells an LLM how to read them, in place of `<image>`, for adapters without a prompt of their own."""
_ALIKE = 1e-4
"""Difference of cosines that tells nothing, such as those of a single patch: then the word before a piece gets it."""


@dataclass(frozen=True)
class Word:
    """A word of an image."""

    text: str
    share: float
    """Mean coefficient over the patches; of pieces that were glued, the largest."""


def prompt(words: Sequence[Word], own: str | None = None) -> str:
    """Return the words in a text that an LLM understands; `own` is the prompt of the adapter's config."""
    return (own or READING).replace("<image>", ", ".join(word.text for word in words))


def check_words(adapter: object) -> None:
    """Raise VocabkitError unless the adapter's coefficients are shares of words or tokens."""
    if not isinstance(adapter, LangBridgeAdapter) or adapter.config.head != "softmax":
        raise VocabkitError(
            "words are chosen by a softmax head; this adapter has none, so its visual tokens say no words"
        )


@torch.no_grad()
def image_words(adapter: LangBridgeAdapter, features: Tensor) -> list[Word]:
    """(N, Dv) patch features of one image -> its words: those of the adapter's settings of spelled visual tokens, or of
    the default ones.

    Raises VocabkitError: a linear head.
    """
    check_words(adapter)
    p, settings = adapter.coefficients(features).float(), adapter.config.spelled or Spelled()
    rows = words_in_order(p, settings, usual_shares(counts_of(adapter.shared)))
    found = words_of_rows(rows, p, adapter.shared)
    return found if settings.order == "place" else sorted(found, key=lambda word: -word.share)


def words_of_rows(rows: Sequence[int], p: Tensor, shared: SharedVocabulary) -> list[Word]:
    """Return the words that `rows` are or are pieces of, in their order; p: (N, V) coefficients."""
    tokens = {row: shared[row] for row in rows if shared[row]}  # a role has no text
    shares = p.mean(dim=0)
    first = [row for row in tokens if shared.of_words or not _continues(tokens[row])] or list(tokens)[:1]
    texts, largest = {row: tokens[row] for row in first}, {row: float(shares[row]) for row in first}
    place = {row: at for at, row in enumerate(tokens)}
    for row in tokens:
        if row not in largest:
            alike = functional.cosine_similarity(p[:, first], p[:, [row]], dim=0).tolist()
            owners = [each for each, found in zip(first, alike, strict=True) if found > max(alike) - _ALIKE]
            owner = max(owners, key=lambda each: (place[each] < place[row], -abs(place[each] - place[row])))
            texts[owner] += tokens[row]
            largest[owner] = max(largest[owner], float(shares[row]))
    merged: dict[str, float] = {}
    for row in first:
        if text := texts[row].decode("utf-8", "replace").strip():
            merged[text] = max(merged.get(text, 0.0), largest[row])
    return [Word(text, share) for text, share in merged.items()]


def _continues(token: bytes) -> bool:
    """Whether a token goes on with a word. Capitals begin one, and scripts without spaces have one in each token."""
    start = token.decode("utf-8", "replace")[:1]
    return start == "\ufffd" or unicodedata.category(start)[0] in "MNP" or unicodedata.category(start) == "Ll"
