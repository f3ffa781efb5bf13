"""Segmenter: cuts tokens of other vocabularies, and finds tokens that encoding never produces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.library import refusing_failures
from vocabkit.tokenizer.segmentation import (
    build,
    encode_batch,
    load_rules,
    parse,
    refusing_damaged,
    rules_missing,
    to_tokenizers,
    tokenizer_json,
)
from vocabkit.tokenizer.spelling import to_alphabet
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Segmenter:
    """Cuts bytes, which need not be valid UTF-8, into tokens of `vocabulary`, as if inside a text.

    Only pieces of these bytes matter, so it builds a tokenizer of those few, in milliseconds; one with all 150,000
    merges would take seconds.

    Raises VocabkitError: the vocabulary's source doesn't say how its tokenizer cuts text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._values = vocabulary.tokens.to_pylist()
        self._byte_ids = {self._values[i]: i for i in np.flatnonzero(vocabulary.kinds == Kind.BYTE).tolist()}
        self._whole: Tokenizer | None = None
        self._rules = None
        self._content: dict[str, Any] | None = None
        if isinstance(vocabulary.segmentation, Path | bytes):
            with refusing_damaged(vocabulary):
                self._content = parse(vocabulary.segmentation)
            return
        self._rules = load_rules(vocabulary)
        if self._rules is None:
            raise rules_missing(vocabulary)
        text = np.flatnonzero(vocabulary.kinds == Kind.TEXT).tolist()
        self._ids: dict[bytes, int] = dict(zip(map(self._values.__getitem__, text), text, strict=True))
        self._others: dict[bytes, list[int]] = {}
        """Where several ids have the same bytes: the rest of them. A list for every token would take far longer."""
        if len(self._ids) < len(text):
            for i in [i for i in text if self._ids[self._values[i]] != i]:
                self._others.setdefault(self._values[i], []).append(i)
        self._longest = max(map(len, self._ids), default=0)

    def ids(self, value: bytes) -> list[int] | None:
        """Return token ids whose bytes join to `value`; None if there are none, for instance because the normalizer
        changes the text.

        A byte-level tokenizer cuts invalid UTF-8 as one word.
        """
        return self.ids_of_each([value])[0]

    def ids_of_each(self, values: Sequence[bytes]) -> list[list[int] | None]:
        """`ids` of many values at once, which is faster."""
        tokenizer, known = self._tokenizer(values)
        return [self._joining(value, tokenizer, known) for value in values]

    def _tokenizer(self, values: Sequence[bytes]) -> tuple[Tokenizer, np.ndarray]:
        """Build a tokenizer with all pieces of `values`; also return the vocabulary's id for each of its ids."""
        if self._content is not None:
            return self._of_json(self._content, values)
        rules = self._rules
        assert rules is not None
        if rules.spelling == "sentencepiece":  # whose `▁` in a text is a space
            values = [value.replace("▁".encode(), b" ") for value in values]
        parts = {part for value in set(values) for part in _parts(value, self._longest)}
        found = parts & self._ids.keys()
        known = {self._ids[part] for part in found} | set(self._byte_ids.values())
        known.update(i for part in found & self._others.keys() for i in self._others[part])
        if rules.unk is not None:
            known.add(rules.unk)
        with refusing_damaged(self._vocabulary):
            if rules.model == "unigram":
                known.add(int(np.nanargmin(rules.priority)))  # the score of an unknown character depends on it
            ids = np.array(sorted(known), np.int64)
            content = tokenizer_json(self._vocabulary, rules, ids)
        return build(self._vocabulary, content, mid_text=True), ids

    def _of_json(self, content: dict[str, Any], values: Sequence[bytes]) -> tuple[Tokenizer, np.ndarray]:
        if self._whole is None and len(values) <= _FEW:
            with refusing_damaged(self._vocabulary):
                part = _with_pieces_of(self._vocabulary, content, values)
            if part is not None:
                return build(self._vocabulary, part[0], mid_text=True), part[1]
        if self._whole is None:
            self._whole = build(self._vocabulary, content, mid_text=True)
        return self._whole, np.arange(len(self._values))

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


_FEW = 200
"""So many values are cut by a tokenizer of their own pieces; for more, the whole one is built, in seconds."""


def _with_pieces_of(
    vocabulary: Vocabulary, content: dict[str, Any], values: Sequence[bytes]
) -> tuple[dict[str, Any], np.ndarray] | None:
    """A BPE tokenizer.json with only the pieces and merges that can take part in `values`, and the id of each piece.

    A merge takes part in a word only if both sides are within it, so every substring of the words is enough. None for
    other models, marks of words' ends or insides, and values that hold an added token.
    """
    model = content["model"]
    marks = ("continuing_subword_prefix", "end_of_word_suffix")
    if model.get("type", "BPE") != "BPE" or isinstance(model["vocab"], list) or any(map(model.get, marks)):
        return None
    empty = {**model, "vocab": {}, "merges": [], "unk_token": None}
    steps = build(vocabulary, {**content, "added_tokens": [], "model": empty}, mid_text=True)
    added = [token["content"] for token in content.get("added_tokens") or () if token["content"]]
    vocab: dict[str, int] = model["vocab"]
    parts = {model.get("unk_token") or ""}
    if model.get("byte_fallback"):
        parts.update(f"<0x{byte:02X}>" for byte in range(256))
    longest = max(map(len, vocab), default=0)
    for text, word in (each for value in set(values) for each in _words(steps, value)):
        if any(token in text or token in word for token in added):
            return None
        parts.update(word[at : at + size] for at in range(len(word)) for size in range(1, longest + 1))
    pieces = sorted(parts & vocab.keys(), key=vocab.__getitem__)
    known = set(pieces)
    cuts = [(piece[:at], piece[at:]) for piece in pieces for at in range(1, len(piece))]
    joins = {pair for pair in cuts if known.issuperset(pair)}
    either = joins | {" ".join(pair) for pair in joins}
    merges = [merge for merge in model["merges"] if merge in either]
    unk = {} if model.get("unk_token") in known else {"unk_token": None}
    part = {**model, **unk, "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges}
    return {**content, "added_tokens": [], "model": part}, np.array([vocab[piece] for piece in pieces], np.int64)


def _words(steps: Tokenizer, value: bytes) -> Iterator[tuple[str, str]]:
    """Each stretch of `value` that is text, and all that the model gets to see of it; bytes that are no text too."""
    while value:
        try:
            text, rest = value.decode(), b""
        except UnicodeDecodeError as error:
            yield "", to_alphabet(value)
            text, rest = value[: error.start].decode(), value[error.end :]
        normal = steps.normalizer.normalize_str(text) if steps.normalizer else text
        seen = [word for word, _ in steps.pre_tokenizer.pre_tokenize_str(normal)] if steps.pre_tokenizer else [normal]
        yield text, "".join(seen)
        value = rest


def _parts(value: bytes, longest: int) -> Iterator[bytes]:
    for start in range(len(value)):
        for end in range(start + 1, min(start + longest, len(value)) + 1):
            yield value[start:end]


def unreachable(vocabulary: Vocabulary) -> dict[int, list[int]]:
    """Map each text token that encoding its own text doesn't give back to the ids that it gives instead, in id order.

    Hardly any other text gives such a token. This is the round trip of Land and Bartolo, "Fishing for Magikarp", 2024.
    Partial UTF-8 can't be tested this way and is left out.

    Raises VocabkitError: the source doesn't say how it cuts text.
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
    instead = {i: found.ids for i, found in zip(ids, encodings, strict=True) if found.ids != [i]}
    cut = [(i, text) for i, text in zip(ids, texts, strict=True) if i in instead]
    return {i: instead[i] for i in _without_continuations(tokenizer, cut, vocabulary.name)}


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
    """Cut each of `values` (bytes, not necessarily valid UTF-8) into pieces of the tokenizer.

    None where it can't spell a value, and everywhere if its source doesn't say how it cuts text.
    """
    try:
        segmentations = Segmenter(vocabulary).ids_of_each(values)
    except VocabkitError:
        return [None] * len(values)
    return [None if ids is None else tuple(Piece(i, vocabulary.token(i) or b"") for i in ids) for ids in segmentations]
