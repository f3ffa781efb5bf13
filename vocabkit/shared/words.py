"""Words: those of a caption corpus, counted, and those of a text, found among the rows of a shared vocabulary."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vocabkit.errors import VocabkitError, quote, warn
from vocabkit.files.atomic import reading
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.corpus import captions

_SEPARATORS = re.compile("[\0-\x1f\x7f-\x9f\u200b]")
"""Control characters and the zero-width space: like a space, they can't be part of a word."""
_SOFT_HYPHEN = "\N{SOFT HYPHEN}"
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_SEVERAL = re.compile("[,;\t\0-\x1f\x7f-\x9f\u3001\uff0c\uff1b]")
"""What stands between names or fields, also in Chinese and Japanese, and what no name holds."""
_OF_TABLE = re.compile(
    r"""\S\ *\t\s*\S | ^\s*\d[\d.]*[\s,;|:]+\S | [^\s,;|:][\s,;|:]+\d[\d.]*\s*$ | ^\S+\.(jpe?g|png|gif|webp|bmp)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""A tab, or a number or the name of a picture at an end: a caption may have that, but not nearly all of them."""
_LOOKED_AT = 100
"""Captions that tell whether a file is a table: a look at all would double the time."""
_NEARLY_ALL = 0.9
_NUMBERS = (("begin", re.compile(r"^\W*(\d+)\W+\w")), ("end", re.compile(r"\w\W+(\d+)\W*$")))
_ODD_NAMES = (
    (re.compile("^#"), "begins with '#', as comments do; leave it out"),
    (re.compile("^/"), "begins with '/', as paths do; give the name alone, such as tench"),
    (re.compile(r"\bn\d{8}\b"), "has the number of a synset in it; give the name alone, such as tench"),
    (re.compile("_"), "has '_' in it; write spaces, as captions do, such as sea lion"),
)
"""What lists of names hold that no text calls a thing."""


def parts_of(text: str) -> list[str]:
    """The parts of a text between white space, with composed characters (NFC), however the text has them."""
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFC", text)).replace(_SOFT_HYPHEN, "").split()


def words_of(text: str) -> list[str]:
    """The words of a text: what stands between white space, without punctuation and symbols at its ends.

    Scripts without spaces have none: a whole clause would be one word.
    """
    return [word for part in parts_of(text) if (word := bare(part))]


def key(text: str) -> str:
    """What words and phrases have in common that differ in case, white space or the code points of an accent only."""
    return " ".join(parts_of(text)).lower()


def read_names(path: str | Path) -> list[str]:
    """Read names, such as those of the classes of a vision model: a text file with a word or phrase in each line.

    Warns if lines are numbered, because the numbers become parts of the names.

    Raises VocabkitError: missing, not UTF-8, a table, a line without a word, with several names or with a name as
    programs write it (`sea_lion`, `/sea lion`, `n02077923 sea lion`), or no lines.
    """
    path = Path(path)
    if path.suffix.lower() in _TABLES:
        raise VocabkitError(f"{path}: names are read from plain text, one name in a line, such as tench")
    with reading(path):
        try:
            lines = path.read_text("utf-8-sig").rstrip().split("\n")
        except UnicodeDecodeError as error:
            raise VocabkitError(f"{path}: not UTF-8 text") from error
    names = []
    for number, line in enumerate(lines, 1):
        if odd := _SEVERAL.search(line.strip()):
            raise VocabkitError(
                f"{path}: line {number} has {quote(odd[0])} in it; give one name in a line, such as tench"
            )
        if told := next((told for form, told in _ODD_NAMES if form.search(line.strip())), None):
            raise VocabkitError(f"{path}: line {number}, {quote(line.strip())}, {told}")
        name = " ".join(words_of(line))
        if not name:
            raise VocabkitError(
                f"{path}: line {number} has no name in it; leave it out, or give one, such as tench (blank lines may "
                "stand at the end only)"
            )
        names.append(name)
    for where, form in _NUMBERS:
        numbered = {match[1]: line.strip() for line in lines if (match := form.search(line))}
        if len(lines) > 1 and len(numbered) >= _NEARLY_ALL * len(lines):
            warn(
                f"{path}: nearly all lines {where} with a number, such as {quote(next(iter(numbered.values())))}; it "
                "becomes part of the name: leave it out unless it belongs there"
            )
    return names


def bare(part: str) -> str:
    """Return a part of text from its first letter or digit to its last, with the marks on that; "" if it has none."""
    kinds = [unicodedata.category(character)[0] for character in part]
    inside = [at for at, kind in enumerate(kinds) if kind in "LN"]
    if not inside:
        return ""
    end = inside[-1] + 1
    while end < len(part) and kinds[end] == "M":
        end += 1
    return part[inside[0] : end]


def count_words(
    paths: Sequence[str | Path], *, text_column: str | None = None, progress: Progress = no_progress
) -> dict[str, int]:
    """Count the words of the captions in `paths`, most frequent first; of equal counts, as they come in the corpus.

    Words that differ only in case are one, written as it is most often; capitals at the start of captions don't count.
    Warns if the first captions are like rows of a table.

    Args:
        paths, text_column, progress: as for `captions`.

    Raises VocabkitError: as `captions`; no words.
    """
    parts: Counter[str] = Counter()  # in the order of the corpus
    starts: Counter[str] = Counter()
    first: list[str] = []
    for text in captions(paths, text_column=text_column, progress=progress):
        words = parts_of(text)
        starts.update(words[:1])
        parts.update(words)
        if len(first) < _LOOKED_AT:
            first.append(text)
    forms: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for part, count in parts.items():
        if word := bare(part):
            lower = word.lower()
            totals[lower] += count
            forms.setdefault(lower, Counter())[word] += count - (starts[part] if word != lower else 0)
    if not forms:
        raise VocabkitError(f"{', '.join(map(str, paths)) or 'corpus'}: holds no words")
    counts = {commonest(form): totals[lower] for lower, form in forms.items()}
    of_table = [text for text in first if _OF_TABLE.search(text)]
    if len(of_table) >= _NEARLY_ALL * len(first):
        warn(
            f"{', '.join(map(str, paths))}: its captions are like rows of a table, such as {quote(of_table[0])}; "
            "every column becomes words, and numbers are not read as counts: give the column of text alone, such as by "
            "cut -f2, or cut -d, -f2- at commas"
        )
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def commonest(forms: Counter[str]) -> str:
    """The most frequent form of a word or, of forms as frequent as each other, the one in lower case."""
    return max(forms, key=lambda form: (forms[form], form == form.lower(), form))


def one_form_each(names: Iterable[str]) -> dict[str, str]:
    """The distinct names by `key`, each in its commonest form."""
    forms: dict[str, Counter[str]] = {}
    for name in names:
        forms.setdefault(key(name), Counter())[unicodedata.normalize("NFC", name)] += 1
    return {each: commonest(form) for each, form in forms.items()}


class WordFinder:
    """Finds words and phrases, the rows of a shared vocabulary, in text, in any case."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._row_of = {tuple(key(text).split()): row for row, text in enumerate(rows)}
        self._longest = max(map(len, self._row_of), default=0)

    def rows(self, text: str) -> list[int]:
        """The rows in `text`, in its order. Of phrases that begin at the same word, the longest counts."""
        return list(self._found([word.lower() for word in words_of(text)]))

    def _found(self, words: list[str]) -> Iterator[int]:
        at = 0
        while at < len(words):
            sizes: Iterable[int] = range(self._longest, 0, -1)
            size = next((n for n in sizes if tuple(words[at : at + n]) in self._row_of), None)
            if size is not None:
                yield self._row_of[tuple(words[at : at + size])]
            at += size or 1
