"""Reachability: which tokens a tokenizer never makes of text."""

from __future__ import annotations

import numpy as np

from vocabkit.segmentation import encode_batch, load_tokenizer
from vocabkit.vocabulary import Kind, Vocabulary


def unreachable(vocabulary: Vocabulary) -> np.ndarray:
    """Ids (int64) of text tokens whose own text the tokenizer cuts in another way, so that they hardly ever come out
    of encode: the round trip of Land and Bartolo, "Fishing for Magikarp", 2024. Partial UTF-8 can't be tested so and
    is left out.

    Raises VocabkitError if the source does not say how text is cut.
    """
    tokenizer = load_tokenizer(vocabulary, mid_text=True)
    ids, texts = [], []
    for token_id in np.flatnonzero(vocabulary.alignable & (vocabulary.kinds == Kind.TEXT)).tolist():
        try:
            texts.append((vocabulary.token(token_id) or b"").decode())
            ids.append(token_id)
        except UnicodeDecodeError:
            continue
    encodings = encode_batch(tokenizer, texts, vocabulary.name)
    return np.array([i for i, encoding in zip(ids, encodings, strict=True) if encoding.ids != [i]], np.int64)
