"""Rank shared tokens by their frequency in a caption corpus, as the tokenizer of the training LLM cuts it.

The published system keeps the 12,800 to 32,000 most frequent ones.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.corpus import captions
from vocabkit.shared.pieces import count_ids, make_cutter
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.vocabulary import Vocabulary


def count_tokens(
    vocabulary: Vocabulary,
    paths: Sequence[str | Path],
    *,
    text_column: str | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Count how often each canonical id of `vocabulary` occurs in the captions of `paths`, on all cores: (V,) int64.

    Counts of several corpora add up: they are those of all files at once.

    Each caption is cut alone, without special tokens; text that spells one is ordinary text. Unknown tokens count. In
    a caption of more than `corpus.LONGEST` characters without a space between words, tokens at a cut may differ.

    Args:
        paths: files and folders; see `vocabkit.shared.corpus` for the formats and what counts as a caption.
        text_column: field or column of the captions. Default: the first usual one.
        progress: reports bytes read on disk.

    Raises:
        VocabkitError: as `captions`; no captions; a tokenizer whose source doesn't say how it cuts text, or that has no
            token for some character and no unknown token.
    """
    cutter = make_cutter(vocabulary)
    counts = np.zeros(len(vocabulary), np.int64)
    what = f"counting with {vocabulary.name}"
    texts = captions(
        paths, text_column=text_column, progress=lambda _, done, total: progress(what, done, total), joint=cutter.joint
    )
    np.add.at(counts, vocabulary.canonical, count_ids(cutter, texts, len(vocabulary)))
    if not counts.any():
        raise VocabkitError(f"{', '.join(map(str, paths)) or 'corpus'}: holds no captions")
    return counts


def rank(
    shared: SharedVocabulary,
    counter: Vocabulary,
    paths: Sequence[str | Path],
    *,
    top: int | None = None,
    text_column: str | None = None,
    progress: Progress = no_progress,
) -> SharedVocabulary:
    """Sort `shared` by corpus frequency, most frequent first, and add the counts. Ties keep their order.

    Rows that `counter` lacks (in a union map) count 0. Rows of special roles come last, in their old order and with
    count 0, because no caption holds them.

    Args:
        counter: the tokenizer that cuts the captions; one of `shared`.
        top: number of rows to keep; rows of special roles are kept in addition.

    Raises:
        VocabkitError: as `count_tokens`; `top` below 1 or above the number of rows; `counter` is not in `shared`.
    """
    is_role = np.isin(np.arange(len(shared)), list(shared.roles.values()))
    texts = np.flatnonzero(~is_role)
    if top is not None and not 1 <= top <= len(texts):
        raise VocabkitError(f"top {top}: choose 1 to {len(texts)}, the number of shared tokens")
    ids = shared.ids_with_gaps(counter.name)
    if counter.fingerprint != shared.tokenizers[shared.names.index(counter.name)].fingerprint:
        raise VocabkitError(f"{counter.name}: not the tokenizer of this name that the shared vocabulary was built with")
    by_id = count_tokens(counter, paths, text_column=text_column, progress=progress)
    counts = np.where((ids < 0) | is_role, 0, by_id[ids])
    order = np.argsort(-counts[texts], kind="stable")[:top]
    kept = np.concatenate([texts[order], np.flatnonzero(is_role)])
    total = int(by_id.sum())
    selection = dataclasses.replace(
        shared.selection,
        order="count",
        corpus=f"{corpus_name(paths, text_column)}, counted with {counter.name}",
        corpus_tokens=total,
        mass_kept=float(counts[kept].sum() / total),
    )
    return shared.with_counts(counts).select(kept, selection)


def corpus_name(paths: Sequence[str | Path], text_column: str | None) -> str:
    """What a shared vocabulary records of a corpus: the names of its files, and the column if one was given."""
    names = ", ".join(
        "a pipe" if _is_numbered(path) else os.fsencode(path.name or path).decode("utf-8", "replace")
        for path in map(Path, paths)
    )
    return names if text_column is None else f"{names} ({text_column})"


def _is_numbered(path: Path) -> bool:
    """Whether it is a pipe without a name, as <(zcat captions.gz) makes one in a shell: /dev/fd/63."""
    return str(path).startswith(("/dev/fd/", "/proc/self/fd/"))
