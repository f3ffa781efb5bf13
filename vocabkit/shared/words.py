"""Words: those of a caption corpus, counted, and those of a text, found among the rows of a shared vocabulary."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import reading
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.corpus import captions


def words_of(text: str) -> list[str]:
    """The words of a text: what stands between white space, without punctuation and symbols at its ends.

    Scripts without spaces have none: a whole clause would be one word.
    """
    return [word for part in text.split() if (word := bare(part))]


def read_names(path: str | Path) -> list[str]:
    """Read names, such as those of the classes of a vision model: a text file with a word or phrase in each line.

    Raises VocabkitError: missing, not UTF-8, a line without a word, or no lines.
    """
    path = Path(path)
    with reading(path):
        try:
            names = [" ".join(words_of(line)) for line in path.read_text("utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise VocabkitError(f"{path}: not UTF-8 text") from error
    if not names or not all(names):
        raise VocabkitError(f"{path}: should have a word or phrase in each line")
    return names


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
