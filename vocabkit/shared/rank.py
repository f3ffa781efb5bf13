"""Rank shared tokens by their frequency in a caption corpus, as the tokenizer of the training LLM cuts it.

The published system keeps the 12,800 to 32,000 most frequent ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.shared.corpus import captions
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.segmentation import encode_batch, to_tokenizers
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PENDING_PIECES, PENDING_CHARACTERS = 1 << 18, 1 << 24
"""Distinct pieces, and their characters, to gather before the tokenizer cuts them."""
BATCH_TEXTS, BATCH_CHARACTERS = 4096, 1 << 20
"""Captions or pieces per batch: enough for the tokenizer to use all cores."""


def count_tokens(
    vocabulary: Vocabulary,
    paths: Sequence[str | Path],
    *,
    text_column: str | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Count how often each canonical id of `vocabulary` occurs in the captions of `paths`: (V,) int64.

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
    tokenizer = to_tokenizers(vocabulary)
    seam, joint = _seams(vocabulary, tokenizer)
    counts = np.zeros(len(vocabulary), np.int64)
    what = f"counting with {vocabulary.name}"
    texts = captions(
        paths, text_column=text_column, progress=lambda _, done, total: progress(what, done, total), joint=joint
    )
    for pieces in _pieces(texts, seam, joint):
        for batch in _batches(pieces):
            encodings = encode_batch(tokenizer, batch, vocabulary.name)
            lengths = [len(encoding) for encoding in encodings]
            ids = np.fromiter(itertools.chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
            np.add.at(counts, vocabulary.canonical[ids], np.repeat([pieces[piece] for piece in batch], lengths))
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
    names = ", ".join(os.fsencode(path.name or path).decode("utf-8", "replace") for path in map(Path, paths))
    return names if text_column is None else f"{names} ({text_column})"


# ---- cutting each distinct piece only once -----------------------------------------------------------------------


def _pieces(texts: Iterable[str], seam: re.Pattern[str], joint: str) -> Iterator[Counter[str]]:
    """Yield the pieces of the texts, cut at `seam`, with their counts, in counters of bounded size."""
    starts: Counter[str] = Counter()
    rests: Counter[str] = Counter()
    size = 0
    for batch in _batches(texts):
        cut = [seam.split(text) for text in batch]
        starts.update([start for start, *_ in cut])
        rests.update(itertools.chain.from_iterable(rest for _, *rest in cut))
        size += sum(map(len, batch))
        is_full = len(starts) + len(rests) >= PENDING_PIECES
        if size >= PENDING_CHARACTERS:  # at most: most pieces were there before
            size = sum(map(len, itertools.chain(starts, rests)))
            is_full |= size >= PENDING_CHARACTERS // 2
        if is_full:
            yield _joined(starts, rests, joint)
            starts, rests, size = Counter(), Counter(), 0
    yield _joined(starts, rests, joint)


def _joined(starts: Counter[str], rests: Counter[str], joint: str) -> Counter[str]:
    starts.update({joint + rest: count for rest, count in rests.items()})
    return starts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) >= BATCH_TEXTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_NOWHERE = re.compile("(?!)")
_WORDS = ("a", "Zebra", "é", "e\u0301", "中文", "か", "เ", "ब्", "ع", "ʰ", "7", "2024", "½", "don't", "'s", "x.", "🐈")
_SIGNS = tuple(".,;:!?'\"“’…()[]{}<>/|\\-—_#&*+=%$@^~`\u0301\u200b\u200d\ufeff\ufffd\0")


def _seams(vocabulary: Vocabulary, tokenizer: Tokenizer) -> tuple[re.Pattern[str], str]:
    """The spaces at which a text may be cut without a change of its tokens, and what the rest then begins with: the
    space, or nothing where the tokenizer puts one before each text.

    A single space between two other characters is one, unless some token goes on over a space after such a character,
    or an added token begins or ends beside it. Samples show whether the tokenizer agrees; if not, there is none.
    """
    tokens = itertools.compress(vocabulary.tokens.to_pylist(), (vocabulary.kinds <= Kind.BYTE).tolist())
    text = b"\n".join(token or b"" for token in tokens).decode("utf-8", "surrogateescape")
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    before = set(re.findall(r"\S(?= )", text)) | {content[-1:] for content in added}
    after = {content[:1] for content in added}
    if any("\ud800" <= character <= "\udfff" for character in before):
        return _NOWHERE, " "  # after part of a character
    # `▁` is a space to SentencePiece
    left, right = (rf"[^\s▁{''.join(map(re.escape, sorted(characters)))}]" for characters in (before, after))
    seam = re.compile(f" (?<={left} )(?={right})")

    samples = (*_WORDS, *_SIGNS)
    pairs = [pair for pair in itertools.product(samples, samples) if seam.search(" ".join(pair))]
    try:
        whole = _ids(tokenizer, [" ".join(pair) for pair in pairs], vocabulary.name)
        alone = _ids(tokenizer, samples, vocabulary.name)
        for joint in (" ", ""):
            rest = _ids(tokenizer, [joint + sample for sample in samples], vocabulary.name)
            if pairs and all(whole[f"{start} {end}"] == alone[start] + rest[joint + end] for start, end in pairs):
                return seam, joint
    except VocabkitError:
        pass  # no token for some sample: not every tokenizer has one for each character
    return _NOWHERE, " "


def _ids(tokenizer: Tokenizer, texts: Sequence[str], name: str) -> dict[str, list[int]]:
    return {text: encoding.ids for text, encoding in zip(texts, encode_batch(tokenizer, texts, name), strict=True)}
