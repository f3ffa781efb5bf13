"""How a tokenizer spells bytes for which it may have no single token: its own segmentation of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vocabkit.errors import VocabkitError
from vocabkit.segmentation import Segmenter
from vocabkit.vocabulary import Vocabulary


@dataclass(frozen=True)
class Piece:
    """One token of a segmentation."""

    id: int
    token: bytes


def spell(vocabulary: Vocabulary, values: Sequence[bytes]) -> list[tuple[Piece, ...] | None]:
    """The pieces that the tokenizer cuts each of `values` into, bytes that need not be valid UTF-8.

    None where it can't spell them, and for all of them if its source does not say how text is cut.
    """
    try:
        segmentations = Segmenter(vocabulary).ids_of_each(values)
    except VocabkitError:
        return [None] * len(values)
    return [None if ids is None else tuple(Piece(i, vocabulary.token(i) or b"") for i in ids) for ids in segmentations]
