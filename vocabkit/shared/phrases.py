"""Phrases as rows: two or three words of a corpus that belong together, such as `teddy bear` and `slice of pizza`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.corpus import captions
from vocabkit.shared.words import WordFinder, bare, key, parts_of

LEAST = 5
"""Times that a phrase must occur."""
COMMON = 0.1
"""Share of captions from which on a word, such as `a` or `on`, is part of no phrase: it stands beside everything."""
LIFT = 3
"""How many times more often than by chance two words must follow each other. Between common words, only the words of a
name do."""


def count_phrases(
    paths: Sequence[str | Path],
    words: Mapping[str, int],
    *,
    text_column: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Count the words and phrases of the captions in `paths`, most frequent first; a word only outside of phrases.

    Of equal counts, as they come in the corpus.

    Args:
        paths, text_column, progress: as for `captions`. They are read twice.
        words: the words of the captions, as `count_words` gives them.

    Raises VocabkitError: as `captions`; a pipe, which can't be read twice.
    """
    for path in paths:
        if not (Path(path).is_file() or Path(path).is_dir()):
            raise VocabkitError(f"{path}: phrases need captions that can be read again; give a file or a folder")
    texts = captions(paths, text_column=text_column, progress=progress)
    form = {key(word): word for word in words}
    rows = [*words, *(" ".join(form[word] for word in phrase) for phrase in _phrases(texts))]
    finder = WordFinder(rows)
    counts: Counter[int] = Counter()
    for text in captions(paths, text_column=text_column, progress=progress):
        counts.update(finder.rows(text))
    found = {rows[row]: count for row, count in counts.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _phrases(texts: Iterable[str]) -> list[tuple[str, ...]]:
    words: Counter[str] = Counter()
    captions_with: Counter[str] = Counter()
    pairs: Counter[tuple[str, ...]] = Counter()
    triples: Counter[tuple[str, ...]] = Counter()
    number = 0
    for text in texts:
        number += 1
        runs = list(_runs(text))
        captions_with.update({word for run in runs for word in run})
        for run in runs:
            words.update(run)
            pairs.update(pairwise(run))
            triples.update(zip(run, run[1:], run[2:], strict=False))
    total = words.total()

    def belong_together(pair: tuple[str, ...]) -> bool:
        one, two = pair
        return (
            pairs[pair] >= LEAST
            and max(captions_with[one], captions_with[two]) <= COMMON * number
            and pairs[pair] * total >= LIFT * words[one] * words[two]
        )

    good = {pair for pair in pairs if belong_together(pair)}
    longer = [each for each, count in triples.items() if count >= LEAST and {each[:2], each[1:]} <= good]
    inside: Counter[tuple[str, ...]] = Counter()
    for each in longer:
        inside.update({each[:2]: triples[each], each[1:]: triples[each]})
    return sorted(longer + [pair for pair in good if pairs[pair] - inside[pair] >= LEAST])


def _runs(text: str) -> Iterator[list[str]]:
    """The words of a text in lower case, cut where punctuation stands between two."""
    run: list[str] = []
    for part in parts_of(text):
        word = bare(part)
        if run and not part.startswith(word):
            yield run
            run = []
        if word:
            run.append(word.lower())
        if run and not part.endswith(word):
            yield run
            run = []
    if run:
        yield run
