"""Spellings: how a tokenizer.json writes the bytes of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vocabkit.arrow_values import taken
from vocabkit.byte_alphabet import to_alphabet
from vocabkit.segmentation.rules import Rules
from vocabkit.vocabulary import Kind, Vocabulary


def spellings(vocabulary: Vocabulary, rules: Rules, ids: Sequence[int] | np.ndarray) -> list[str | None]:
    """Spellings of `ids`, None for an id without a token.

    Byte-level pieces in the byte alphabet; SentencePiece pieces with `▁` for a space and `<0xNN>` for byte-fallback;
    added tokens of byte-level vocabularies and special tokens literally.
    """
    index = np.asarray(ids, np.int64)
    values = taken(vocabulary.tokens, index).to_pylist()
    kinds = vocabulary.kinds[index].tolist()
    own = (~np.isnan(rules.priority[index])).tolist()
    if rules.spelling == "byte-level":
        return [_byte_level(*each) for each in zip(values, kinds, own, strict=True)]
    return [_sentencepiece(*each) for each in zip(values, kinds, strict=True)]


def _byte_level(value: bytes | None, kind: int, own: bool) -> str | None:
    if value is None:
        return None
    return to_alphabet(value) if own and kind <= Kind.BYTE else value.decode("utf-8", "replace")


def _sentencepiece(value: bytes | None, kind: int) -> str | None:
    if value is None:
        return None
    if kind == Kind.BYTE:
        return f"<0x{value[0]:02X}>"
    text = value.decode("utf-8", "replace")
    return text.replace(" ", "▁") if kind == Kind.TEXT else text
