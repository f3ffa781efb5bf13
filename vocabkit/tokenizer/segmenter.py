"""Cutting single tokens of other vocabularies, and finding tokens that encoding never produces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.segmentation import (
    build,
    encode_batch,
    load_rules,
    refusing_damaged,
    refusing_failures,
    rules_missing,
    to_tokenizers,
    tokenizer_json,
)
from vocabkit.tokenizer.spelling import to_alphabet
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Segmenter:
    """Cuts bytes, which need not be valid UTF-8, into tokens of `vocabulary`, as if they stood inside a text.

    Only pieces of the bytes themselves can take part, so a tokenizer of these few is built, in milliseconds; one of
    all 150,000 merges would take seconds.

    Raises VocabkitError if the vocabulary's source does not say how its tokenizer cuts text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._values = vocabulary.tokens.to_pylist()
        self._byte_ids = {self._values[i]: i for i in np.flatnonzero(vocabulary.kinds == Kind.BYTE).tolist()}
        self._whole = self._rules = None
        if isinstance(vocabulary.segmentation, Path | bytes):
            self._whole = to_tokenizers(vocabulary, mid_text=True)
            return
        self._rules = load_rules(vocabulary)
        if self._rules is None:
            raise rules_missing(vocabulary)
        self._ids: dict[bytes, list[int]] = {}
        for i in np.flatnonzero(vocabulary.kinds == Kind.TEXT).tolist():
            self._ids.setdefault(self._values[i], []).append(i)
        self._longest = max(map(len, self._ids), default=0)

    def ids(self, value: bytes) -> list[int] | None:
        """Token ids whose bytes join to `value`; None if there are none, for instance because the tokenizer's
        normalizer changes the text.

        A byte-level tokenizer cuts bytes that are not valid UTF-8 as one word.
        """
        return self.ids_of_each([value])[0]

    def ids_of_each(self, values: Sequence[bytes]) -> list[list[int] | None]:
        """`ids` of many values at once, which is faster."""
        tokenizer, known = self._tokenizer(values)
        return [self._joining(value, tokenizer, known) for value in values]

    def _tokenizer(self, values: Iterable[bytes]) -> tuple[Tokenizer, np.ndarray]:
        """A tokenizer that knows all pieces of `values`, and the id that each of its ids stands for."""
        if self._whole is not None:
            return self._whole, np.arange(len(self._values))
        rules = self._rules
        assert rules is not None
        if rules.spelling == "sentencepiece":  # whose `▁` in a text is a space
            values = [value.replace("▁".encode(), b" ") for value in values]
        parts = {part for value in set(values) for part in _parts(value, self._longest)}
        known = {i for part in parts for i in self._ids.get(part, ())} | set(self._byte_ids.values())
        if rules.unk is not None:
            known.add(rules.unk)
        with refusing_damaged(self._vocabulary):
            if rules.model == "unigram":
                known.add(int(np.nanargmin(rules.priority)))  # the score of an unknown character depends on it
            ids = np.array(sorted(known), np.int64)
            content = tokenizer_json(self._vocabulary, rules, ids)
        return build(self._vocabulary, content, mid_text=True), ids

    def _joining(self, value: bytes, tokenizer: Tokenizer, known: np.ndarray) -> list[int] | None:
        try:
            with refusing_failures("no token for some character"):
                ids = self._cut(value, tokenizer, known)
        except VocabkitError:
            return None
        if any(self._vocabulary.kinds[i] > Kind.BYTE for i in ids) or b"".join(self._values[i] for i in ids) != value:
            return None
        return ids

    def _cut(self, value: bytes, tokenizer: Tokenizer, known: np.ndarray) -> list[int]:
        found: list[int] = []
        while value:
            try:
                text, broken, rest = value.decode(), b"", b""
            except UnicodeDecodeError as error:
                if not self._byte_ids:
                    return [int(known[token.id]) for token in tokenizer.model.tokenize(to_alphabet(value))]
                text, broken, rest = value[: error.start].decode(), value[error.start : error.end], value[error.end :]
            found += known[tokenizer.encode(text, add_special_tokens=False).ids].tolist()
            found += [self._byte_ids[broken[i : i + 1]] for i in range(len(broken))]
            value = rest
        return found


def _parts(value: bytes, longest: int) -> Iterator[bytes]:
    for start in range(len(value)):
        for end in range(start + 1, min(start + longest, len(value)) + 1):
            yield value[start:end]


def unreachable(vocabulary: Vocabulary) -> np.ndarray:
    """Ids (int64) of text tokens whose own text the tokenizer cuts in another way, so that they hardly ever come out
    of encode: the round trip of Land and Bartolo, "Fishing for Magikarp", 2024. Partial UTF-8 can't be tested so and
    is left out.

    Raises VocabkitError if the source does not say how text is cut.
    """
    tokenizer = to_tokenizers(vocabulary, mid_text=True)
    ids, texts = [], []
    for token_id in np.flatnonzero(vocabulary.alignable & (vocabulary.kinds == Kind.TEXT)).tolist():
        try:
            texts.append((vocabulary.token(token_id) or b"").decode())
            ids.append(token_id)
        except UnicodeDecodeError:
            continue
    encodings = encode_batch(tokenizer, texts, vocabulary.name)
    cut = [(i, text) for i, text, found in zip(ids, texts, encodings, strict=True) if found.ids != [i]]
    return np.array(_without_continuations(tokenizer, cut, vocabulary.name), np.int64)


_WORD_STARTS = ("a", "o", "x", "zz", "qx", "7")
"""What continuations are tried behind: with one of these, a greedy match ends before nearly every one of BERT's."""


def _without_continuations(tokenizer: Tokenizer, cut: list[tuple[int, str]], name: str) -> list[int]:
    """The ids of `cut`, but for pieces such as `##ing` that come out behind the start of a word."""
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", None)
    spelled = {i: tokenizer.id_to_token(i) or "" for i, _ in cut} if prefix else {}
    left = [(i, text) for i, text in cut if prefix and spelled[i].startswith(prefix)]
    rest = {i for i, _ in cut}
    for start in _WORD_STARTS if left else ():
        encodings = encode_batch(tokenizer, [start + text for _, text in left], name)
        rest -= {i for (i, _), found in zip(left, encodings, strict=True) if found.ids[-1:] == [i]}
        left = [(i, text) for i, text in left if i in rest]
    return sorted(rest)


@dataclass(frozen=True)
class Piece:
    """One token of a segmentation."""

    id: int
    token: bytes


def spell(vocabulary: Vocabulary, values: Sequence[bytes]) -> list[tuple[Piece, ...] | None]:
    """The pieces that the tokenizer cuts each of `values` into, bytes that need not be valid UTF-8.

    None where it can't spell them, and for all of them if its source does not say how text is cut.
    """
    try:
        segmentations = Segmenter(vocabulary).ids_of_each(values)
    except VocabkitError:
        return [None] * len(values)
    return [None if ids is None else tuple(Piece(i, vocabulary.token(i) or b"") for i in ids) for ids in segmentations]
