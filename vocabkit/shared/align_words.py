"""align_words: a shared vocabulary whose rows are words, each as every tokenizer spells it in running text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.align import check_tokenizers
from vocabkit.shared.phrases import count_phrases
from vocabkit.shared.rank import corpus_name
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, TokenizerInfo, make_shared, spell
from vocabkit.shared.words import count_words
from vocabkit.tokenizer.load import load_tokenizers

if TYPE_CHECKING:
    from vocabkit.tokenizer.load import AnyTokenizer


def align_words(
    tokenizers: Sequence[AnyTokenizer],
    corpus: Sequence[str | Path] | Mapping[str, int],
    *,
    top: int | None = None,
    at_least: int | None = None,
    phrases: bool = False,
    names: Sequence[str] = (),
    text_column: str | None = None,
    progress: Progress = no_progress,
) -> SharedVocabulary:
    """Build a shared vocabulary whose rows are the words of a caption corpus, most frequent first.

    The bytes of a row are those of the word after a space. Each tokenizer spells it by the ids that its encode gives
    in running text, so a tokenizer has every row, and one that is added later has them as well. The exception are words
    that its encode changes, for instance to lower case.

    Args:
        tokenizers: each as `load_tokenizer` takes it.
        corpus: files and folders of captions, see `vocabkit.shared.corpus`; or words (phrases too) and their counts.
        top: how many words to keep.
        at_least: how many of the tokenizers must spell a word; None for all.
        phrases: whether words of a corpus that belong together are rows as well (see `vocabkit.shared.phrases`).
        names: further words and phrases that are rows, such as names of classes (see `read_names`). Those that the
            corpus lacks have the count 0.
        text_column, progress: as for `captions`.

    Raises:
        VocabkitError: as `align` and `captions`; no words, or a tokenizer whose source doesn't say how it cuts text.
    """
    vocabularies = load_tokenizers(tokenizers)
    required = check_tokenizers([vocabulary.name for vocabulary in vocabularies], at_least)
    counts: Mapping[str, int]
    if isinstance(corpus, Mapping):
        counts, name = corpus, None
    else:
        counts = count_words(corpus, text_column=text_column, progress=progress) if corpus else {}
        if phrases:
            counts = count_phrases(corpus, counts, text_column=text_column, progress=progress)
        name = f"words{' and phrases' * phrases} of {corpus_name(corpus, text_column)}" if corpus else None
    known = {word.casefold() for word in counts}
    further = {each.casefold(): each for each in names if each.casefold() not in known}
    counts = {**counts, **dict.fromkeys(further.values(), 0)}
    total = sum(counts.values())
    tokens = binary_array([f" {word}".encode() for word in counts])
    spelled = [spell(tokens, vocabulary) for vocabulary in vocabularies]
    presence = np.sum([each.lengths > 0 for each in spelled], axis=0)
    kept = np.flatnonzero(presence >= required)
    if not len(kept):
        raise VocabkitError(f"{', '.join(v.name for v in vocabularies)} can spell none of the {len(counts):,} words")
    if top is not None and not 1 <= top <= len(kept):
        raise VocabkitError(f"top {top}: choose 1 to {len(kept)}, the number of words")
    kept = kept[:top]
    made = make_shared(
        tokens=tokens,
        ids=spelled,
        tokenizers=[TokenizerInfo.of(vocabulary) for vocabulary in vocabularies],
        selection=Selection(required, "count"),
    ).with_counts(np.fromiter(counts.values(), np.int64, len(counts)))
    selection = Selection(
        required,
        "count",
        corpus=name,
        corpus_tokens=total,
        mass_kept=int(made.counts[kept].sum()) / max(total, 1) if made.counts is not None else None,
    )
    return made.select(kept, selection)
