"""A `tokenizers.Tokenizer` out of a vocabulary and its rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vocabkit.arrow_values import taken
from vocabkit.errors import VocabkitError, quote
from vocabkit.segmentation.panics import panics_unprinted
from vocabkit.segmentation.rules import (
    LOW_LINES,
    STRIP_END,
    STRIP_START,
    Rules,
    Step,
    load_rules,
    parse,
    refusing_damaged,
    rules_missing,
)
from vocabkit.segmentation.soundness import check_sound
from vocabkit.segmentation.spelling import spellings
from vocabkit.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


def load_tokenizer(vocabulary: Vocabulary, *, mid_text: bool = False) -> Tokenizer:
    """A `tokenizers.Tokenizer` that cuts text as the vocabulary's own tokenizer does, without special tokens around it.

    Text is text: where it spells a special token, that is cut like any other.

    Args:
        mid_text: cut as if the text stood inside a longer one: no space is put before its first word, and none is
            taken off its ends.

    Raises:
        VocabkitError: the source does not say how its tokenizer cuts text, is gone, or contradicts itself.
    """
    if isinstance(vocabulary.segmentation, Path):
        with refusing_damaged(vocabulary):
            content = parse(vocabulary.segmentation)
    else:
        rules = load_rules(vocabulary)
        if rules is None:
            raise rules_missing(vocabulary)
        with refusing_damaged(vocabulary):
            content = tokenizer_json(vocabulary, rules, np.arange(len(vocabulary)))
    return build(vocabulary, content, mid_text=mid_text)


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str], name: str) -> list[Encoding]:
    """Each text cut alone, on all cores, without special tokens; offsets are not computed.

    Args:
        name: of the tokenizer, for messages.

    Raises VocabkitError: the tokenizer has no token for some character, and none for unknown ones.
    """
    with refusing_failures(f"{name}: its tokenizer can't cut a text"), panics_unprinted():
        return list(tokenizer.encode_batch_fast(texts, add_special_tokens=False))


@contextmanager
def refusing_failures(problem: str) -> Iterator[None]:
    """Turn whatever `tokenizers` raises into a VocabkitError. Its panics are no Exceptions."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise VocabkitError(f"{problem} ({quote(str(error), 120)})") from error


def build(vocabulary: Vocabulary, content: dict[str, Any], *, mid_text: bool) -> Tokenizer:
    """The tokenizer of a parsed tokenizer.json (see `load_tokenizer`)."""
    from tokenizers import Tokenizer

    content = {**content, "truncation": None, "padding": None, "post_processor": None}
    with refusing_damaged(vocabulary):
        check_sound(content)
        if mid_text:
            content["normalizer"] = _inside(content.get("normalizer"))
            content["pre_tokenizer"] = _inside(content.get("pre_tokenizer"))
        encoded = msgspec.json.encode(content)
    with refusing_failures(f"{vocabulary.name}: `tokenizers` does not accept {vocabulary.source}"), panics_unprinted():
        tokenizer = Tokenizer.from_buffer(encoded)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _inside(step: Step | None) -> Step | None:
    """A normalizer or pre-tokenizer without the parts that act on the ends of the text."""
    if step is None or step["type"] in ("Prepend", "Strip") or step in (STRIP_START, STRIP_END):
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return {**step, key: [part for part in map(_inside, step[key]) if part is not None]}
    if step["type"] == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    return step


def tokenizer_json(vocabulary: Vocabulary, rules: Rules, ids: np.ndarray) -> dict[str, Any]:
    """The content of a tokenizer.json with the tokens `ids` only. Their positions in `ids` are the ids in it."""
    spelled = spellings(vocabulary, rules, ids)
    priority = rules.priority[ids]
    unk = np.flatnonzero(ids == rules.unk).tolist() if rules.unk is not None else []
    model: dict[str, Any]
    if rules.model == "unigram":
        # Text must not match the spelling of a special token: no space reaches the model, so that one hides it.
        hidden = (vocabulary.kinds[ids] > Kind.BYTE).tolist()
        spelled = [f" {piece}" if hide else piece for piece, hide in zip(spelled, hidden, strict=True)]
        scores = np.where(np.isnan(priority), priority[~np.isnan(priority)].min(), priority).tolist()
        vocab = [[piece or "", score] for piece, score in zip(spelled, scores, strict=True)]
        model = {"type": "Unigram", "vocab": vocab, "unk_id": unk[0] if unk else None}
    else:
        # Added tokens are pieces too, so that `tokenizers` keeps their ids. Of equal spellings the last counts: one
        # of the model's own pieces, and the lowest id.
        order = np.lexsort((-ids, ~np.isnan(priority))).tolist()
        model = {
            "type": "BPE",
            "vocab": {piece: i for i in order if (piece := spelled[i]) is not None},
            "merges": [[spelled[left], spelled[right]] for left, right in _merges(vocabulary, rules, ids)],
            "unk_token": spelled[unk[0]] if unk else None,
        }
    added = np.flatnonzero(np.isnan(priority) & (vocabulary.kinds[ids] != Kind.BYTE)).tolist()
    return {
        "version": "1.0",
        "added_tokens": [
            _added_token(vocabulary, rules, int(ids[i]), i, spelled[i] or "") for i in added if spelled[i]
        ],
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "decoder": None,
        "model": {**model, **rules.options},
    }


def _added_token(vocabulary: Vocabulary, rules: Rules, token_id: int, position: int, content: str) -> dict[str, Any]:
    flags = {flag: token_id in rules.added.get(flag, ()) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
    if rules.normalizer == LOW_LINES and "▁" in content:
        flags["normalized"] = True  # found after the normalizer
    return {"id": position, "content": content, "special": bool(vocabulary.kinds[token_id] != Kind.TEXT), **flags}


def _merges(vocabulary: Vocabulary, rules: Rules, ids: np.ndarray) -> Sequence[tuple[int, int]]:
    """Merges (left, right) among `ids`, as positions in `ids`, in merge order."""
    values = taken(vocabulary.tokens, ids).to_pylist()
    if rules.merges is None:
        return all_merges(values, np.where(vocabulary.kinds[ids] == Kind.TEXT, rules.priority[ids], np.nan))
    position = np.full(len(vocabulary), -1, np.int64)
    position[ids] = np.arange(len(ids))
    pairs = position[rules.merges]
    known = {values[i] for i in np.flatnonzero(~np.isnan(rules.priority[ids])).tolist()}
    return [
        (left, right)
        for left, right in pairs[(pairs >= 0).all(axis=1)].tolist()
        if values[left] + values[right] in known
    ]


def all_merges(values: Sequence[bytes | None], priority: np.ndarray) -> list[tuple[int, int]]:
    """Every way to join two pieces to a piece, in the order of `priority` (NaN: not a piece) of the result.

    This is how tiktoken ranks and SentencePiece scores define merges; among the ways to make one piece, the pair
    with the lower ids comes first.
    """
    pieces = [i for i in np.argsort(priority, kind="stable").tolist() if not np.isnan(priority[i])]
    ids = {values[i]: i for i in reversed(pieces)}
    merges: list[tuple[int, int]] = []
    for piece in pieces:
        value = values[piece] or b""
        cuts = ((value[:cut], value[cut:]) for cut in range(1, len(value)))
        merges += sorted([(ids[left], ids[right]) for left, right in cuts if left in ids and right in ids])
    return merges
