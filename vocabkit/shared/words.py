"""Words as rows: the words of a caption corpus, each as every tokenizer spells it in running text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.align import check_tokenizers
from vocabkit.shared.corpus import captions
from vocabkit.shared.rank import corpus_name
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, TokenizerInfo, make_shared, spell
from vocabkit.tokenizer.load import load_tokenizers

if TYPE_CHECKING:
    from vocabkit.tokenizer.load import AnyTokenizer


def words_of(text: str) -> list[str]:
    """The words of a text: what stands between white space, without punctuation and symbols at its ends.

    Scripts without spaces have none: a whole clause would be one word.
    """
    return [word for part in text.split() if (word := bare(part))]


def bare(part: str) -> str:
    """Return a part of text without punctuation and symbols at its ends; "" if nothing is left."""
    inside = [at for at, character in enumerate(part) if unicodedata.category(character)[0] not in "PSCZ"]
    return part[inside[0] : inside[-1] + 1] if inside else ""


def count_words(
    paths: Sequence[str | Path], *, text_column: str | None = None, progress: Progress = no_progress
) -> dict[str, int]:
    """Count the words of the captions in `paths`, most frequent first.

    Words that differ only in case are one, written as it is most often, the first words of captions aside.

    Args:
        paths, text_column, progress: as for `captions`.

    Raises VocabkitError: as `captions`; no words.
    """
    parts: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    for text in captions(paths, text_column=text_column, progress=progress):
        words = text.split()
        starts.update(words[:1])
        parts.update(words[1:])
    forms: dict[str, dict[str, int]] = {}
    totals: Counter[str] = Counter()
    for counted, tells_form in ((parts, True), (starts, False)):
        for part, count in counted.items():
            if word := bare(part):
                totals[word.casefold()] += count
                form = forms.setdefault(word.casefold(), {})
                form[word] = form.get(word, 0) + count * tells_form
    if not forms:
        raise VocabkitError(f"{', '.join(map(str, paths)) or 'corpus'}: holds no words")
    # of forms as frequent as each other, the one in lower case
    counts = {
        max(form, key=lambda word: (form[word], word == word.lower(), word)): totals[key] for key, form in forms.items()
    }
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def align_words(
    tokenizers: Sequence[AnyTokenizer],
    corpus: Sequence[str | Path] | Mapping[str, int],
    *,
    top: int | None = None,
    at_least: int | None = None,
    phrases: bool = False,
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
        counts = count_words(corpus, text_column=text_column, progress=progress)
        if phrases:
            from vocabkit.shared.phrases import count_phrases

            counts = count_phrases(corpus, counts, text_column=text_column, progress=progress)
        name = f"words{' and phrases' * phrases} of {corpus_name(corpus, text_column)}"
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


class WordFinder:
    """Finds words and phrases, the rows of a shared vocabulary, in text, in any case."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._row_of = {tuple(text.casefold().split()): row for row, text in enumerate(rows)}
        self._longest = max(map(len, self._row_of), default=0)

    def rows(self, text: str) -> list[int]:
        """The rows in `text`, in its order. Of phrases that begin at the same word, the longest counts."""
        return list(self._found([word.casefold() for word in words_of(text)]))

    def _found(self, words: list[str]) -> Iterator[int]:
        at = 0
        while at < len(words):
            sizes: Iterable[int] = range(self._longest, 0, -1)
            size = next((n for n in sizes if tuple(words[at : at + n]) in self._row_of), None)
            if size is not None:
                yield self._row_of[tuple(words[at : at + size])]
            at += size or 1
