"""Which shared tokens matter: how often they stand in a caption corpus, cut by the tokenizer of the training LLM.

The published system keeps the 12,800 to 32,000 most frequent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vocabkit.corpus import Progress, captions
from vocabkit.errors import VocabkitError
from vocabkit.segmentation import encode_batch, load_tokenizer
from vocabkit.shared import SharedVocabulary
from vocabkit.vocabulary import Vocabulary

BATCH_TEXTS, BATCH_CHARACTERS = 8192, 4 << 20
"""A batch goes to the tokenizer, which cuts it on all cores, when it has so many captions or characters."""


def count_tokens(
    vocabulary: Vocabulary, paths: Sequence[Path], *, field: str | None = None, progress: Progress | None = None
) -> np.ndarray:
    """(V,) int64: how often each canonical id of `vocabulary` stands in the captions of `paths`.

    Every caption is cut alone, without special tokens; text that spells one is text.

    Raises:
        VocabkitError: as `captions`; no caption at all; a tokenizer whose source does not say how text is cut, or that
            has no token for some character and none for unknown ones.
    """
    tokenizer = load_tokenizer(vocabulary)
    counts = np.zeros(len(vocabulary), np.int64)
    for batch in _batches(captions(paths, field=field, progress=progress)):
        encodings = encode_batch(tokenizer, batch)
        ids = np.concatenate([np.asarray(encoding.ids, np.int64) for encoding in encodings])
        counts += np.bincount(ids, minlength=len(counts))
    if not counts.any():
        raise VocabkitError(f"{', '.join(map(str, paths))}: no captions in it")
    canonical = np.zeros_like(counts)
    np.add.at(canonical, vocabulary.canonical, counts)
    return canonical


def rank(
    shared: SharedVocabulary,
    counter: Vocabulary,
    paths: Sequence[Path],
    *,
    top: int | None = None,
    field: str | None = None,
    progress: Progress | None = None,
) -> SharedVocabulary:
    """`shared` in order of corpus frequency, most frequent first, equal ones in the order they had; with counts.

    Rows that `counter` lacks (in a union map) count 0. Rows that stand for special roles come last, with count 0.

    Args:
        counter: the tokenizer that cuts the captions; one of `shared`.
        top: keep so many rows; those of special roles come on top of them.

    Raises:
        VocabkitError: as `count_tokens`; `top` below 1 or above the number of rows; `counter` is not in `shared`.
    """
    texts = len(shared) - len(shared.roles)
    if top is not None and not 1 <= top <= texts:
        raise VocabkitError(f"top {top}: choose 1 to {texts}, the number of shared tokens")
    ids = shared.select(np.flatnonzero(shared.mask_for(counter.name))).ids_for(counter.name)
    by_id = count_tokens(counter, paths, field=field, progress=progress)
    counts = np.zeros(len(shared), np.int64)
    counts[shared.mask_for(counter.name)] = by_id[ids]
    is_role = np.isin(np.arange(len(shared)), list(shared.roles.values()))
    counts[is_role] = 0
    order = np.argsort(-counts[~is_role], kind="stable")[:top]
    kept = np.concatenate([np.flatnonzero(~is_role)[order], np.flatnonzero(is_role)])
    total = int(by_id.sum())
    selection = dataclasses.replace(
        shared.selection,
        order="count",
        corpus=f"{', '.join(path.name for path in paths)}, counted with {counter.name}",
        corpus_tokens=total,
        mass_kept=float(counts[kept].sum() / total),
    )
    return shared.with_counts(counts).select(kept, selection)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) >= BATCH_TEXTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
