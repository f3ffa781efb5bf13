"""align_words: a shared vocabulary whose rows are words, each as every tokenizer spells it in running text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError, counted, quote, warn
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.align import check_tokenizers
from vocabkit.shared.phrases import count_phrases
from vocabkit.shared.rank import corpus_name
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, Spellings, TokenizerInfo, make_shared, spell
from vocabkit.shared.words import count_words, key, one_form_each
from vocabkit.tokenizer.load import load_tokenizers

if TYPE_CHECKING:
    from vocabkit.tokenizer.load import AnyTokenizer

LONGEST = 64
"""Characters of a word: what is longer is an address, code or a text without spaces, and never seen again."""
_CLAUSE = 16
"""Ids of a row, from which on it is likely a clause. Words of scripts that a tokenizer hardly knows come near that."""
_MANY = 0.05
"""Share of rows: single addresses and codes are in any corpus."""
_SHOWN = 3


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

    Warns of words that are left out because they have more than `LONGEST` characters or a tokenizer lacks them, and of
    many rows that must be clauses, in scripts without spaces.

    Args:
        tokenizers: each as `load_tokenizer` takes it.
        corpus: files and folders of captions, see `vocabkit.shared.corpus`; or words (phrases too) and their counts.
        top: how many words of the corpus to keep; `names` are kept beside them.
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
    total = sum(counts.values())
    endless = {word for word in counts if max(map(len, word.split()), default=0) > LONGEST}
    if endless:
        example = quote(min(endless))
        warn(f"{counted(len(endless), 'word')} of more than {LONGEST} characters left out, such as {example}")
        counts = {word: count for word, count in counts.items() if word not in endless}
    known, listed, of_corpus = {key(word): word for word in counts}, one_form_each(names), len(counts)
    asked = {known.get(each, form) for each, form in listed.items()}
    counts = {**counts, **{form: 0 for each, form in listed.items() if each not in known}}
    tokens = binary_array([f" {word}".encode() for word in counts])
    spelled = [spell(tokens, vocabulary) for vocabulary in vocabularies]
    presence = np.sum([each.lengths > 0 for each in spelled], axis=0)
    has_row = presence >= required
    if not has_row.any():
        names_of_all = ", ".join(v.name for v in vocabularies)
        raise VocabkitError(f"{names_of_all} can spell none of the {counted(len(counts), 'word')}")
    if not has_row.all():
        warn(_losses(list(counts), [v.name for v in vocabularies], spelled, presence, required))
    ranked = np.flatnonzero(has_row[:of_corpus])
    if top is not None and not 1 <= top <= len(ranked):
        raise VocabkitError(f"top {top}: choose 1 to {len(ranked)}, the number of words")
    if top is not None:
        if told := _first_of_list(np.fromiter(counts.values(), np.int64)[ranked], top):
            warn(told)
        has_row[ranked[top:]] = np.array([word in asked for word in counts])[ranked[top:]]
    kept = np.flatnonzero(has_row)
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
    shared = made.select(kept, selection)
    for vocabulary in vocabularies:
        if told := _long_rows(shared, vocabulary.name):
            warn(told)
            break
    return shared


def _losses(
    words: Sequence[str], names: Sequence[str], spelled: Sequence[Spellings], presence: np.ndarray, required: int
) -> str:
    """Say which tokenizer costs how many words, the most costly first, and what would keep them."""
    lost = np.flatnonzero(presence < required).tolist()
    lacking = {
        name: [words[row] for row in lost if not own.lengths[row]] for name, own in zip(names, spelled, strict=True)
    }
    costly = sorted((name for name in names if lacking[name]), key=lambda name: -len(lacking[name]))
    parts = [f"{name} {len(lacking[name]):,} ({_first(lacking[name])})" for name in costly]
    most = int(presence[lost].max())
    remedy = f"; `at_least` {most} keeps what {most} of the {len(names)} can spell" if most else ""
    left_out = f"{len(lost):,} of {counted(len(words), 'word')} left out, which a tokenizer changes or lacks"
    return f"{left_out}: {', '.join(parts)}{remedy}"


def _first_of_list(counts: np.ndarray, top: int) -> str | None:
    """Say that `top` keeps words by their place alone, if nearly all, also of those kept, have the same count."""
    same = counts == counts[-1]
    if top == len(counts) or min(same.mean(), same[:top].mean()) < 1 - _MANY:
        return None
    return (
        f"`top` {top}: nearly all of the {len(counts):,} words occur equally often, so those that come first are kept; "
        "a list of words must be in order of frequency (counts beside the words are not read)"
    )


def _long_rows(shared: SharedVocabulary, name: str) -> str | None:
    """Say that the rows of a tokenizer are no words, if many have so many ids that they must be clauses."""
    long = np.flatnonzero(shared.spellings(name).lengths > _CLAUSE)
    if len(long) <= _MANY * len(shared):
        return None
    first = quote(shared[int(long[0])].decode().strip())
    return (
        f"words of more than {_CLAUSE} ids in {name}: {len(long):,} of {len(shared):,}, such as {first}; words are cut "
        "at spaces: put some into text that has none, and leave out addresses and names of files"
    )


def _first(words: Sequence[str]) -> str:
    shown = ", ".join(quote(word) for word in words[:_SHOWN])
    return shown + ", ..." * (len(words) > _SHOWN)
