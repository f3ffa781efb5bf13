"""align_text: where the tokens of two tokenizers meet in one text, by byte offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.load import load_tokenizer
from vocabkit.tokenizer.segmentation import encode_batch, to_tokenizers
from vocabkit.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vocabkit.tokenizer.load import AnyTokenizer

Span = tuple[int, int]
"""First and one past the last."""


@dataclass(frozen=True)
class Meeting:
    """The smallest stretch of text after which tokens of both tokenizers end at the same byte."""

    bytes: Span
    tokens_a: Span
    """Positions in `AlignedText.ids_a`."""
    tokens_b: Span


@dataclass(frozen=True)
class AlignedText:
    """One text as two tokenizers cut it. Offsets are in bytes of its UTF-8."""

    text: str
    ids_a: tuple[int, ...]
    ids_b: tuple[int, ...]
    offsets_a: tuple[Span, ...]
    """One for each token. A space that a tokenizer puts before the text has no bytes in it."""
    offsets_b: tuple[Span, ...]
    meetings: tuple[Meeting, ...]
    """In order; together they cover the text."""


def align_text(text: str, a: AnyTokenizer, b: AnyTokenizer) -> AlignedText:
    """Cut `text` by both tokenizers, without special tokens, and align their tokens.

    Args:
        a, b: as `load_tokenizer` takes them.

    Raises VocabkitError: a tokenizer that changes the text (lower case, Unicode normal forms), so that its tokens have
    no place in it; or one whose source does not say how it cuts text.
    """
    ids_a, offsets_a = _cut(text, load_tokenizer(a))
    ids_b, offsets_b = _cut(text, load_tokenizer(b))
    return AlignedText(text, ids_a, ids_b, offsets_a, offsets_b, tuple(_meetings(offsets_a, offsets_b)))


def _cut(text: str, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    ids = encode_batch(_tokenizer(vocabulary), [text], vocabulary.name)[0].ids
    tokens = [vocabulary.token(i) or b"" for i in ids]
    expected, found = text.encode(), b"".join(tokens)
    prefix = len(found) - len(expected)
    if found[max(prefix, 0) :] != expected or found[: max(prefix, 0)].strip(b" "):
        raise VocabkitError(f"{vocabulary.name}: its tokenizer changes this text, so its tokens have no place in it")
    ends, at = [], -prefix
    for token in tokens:
        start, at = at, at + len(token)
        ends.append((max(start, 0), max(at, 0)))
    return tuple(ids), tuple(ends)


@lru_cache(maxsize=8)
def _tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return to_tokenizers(vocabulary)  # takes a second, and callers have many texts


def _meetings(a: Sequence[Span], b: Sequence[Span]) -> list[Meeting]:
    found: list[Meeting] = []
    at_a = at_b = first_a = first_b = start = 0
    while at_a < len(a) and at_b < len(b):
        end_a, end_b = a[at_a][1], b[at_b][1]
        if end_a == end_b and end_a > start:
            at_a, at_b = at_a + 1, at_b + 1
            found.append(Meeting((start, end_a), (first_a, at_a), (first_b, at_b)))
            first_a, first_b, start = at_a, at_b, end_a
        elif end_a <= end_b:
            at_a += 1
        else:
            at_b += 1
    return found
