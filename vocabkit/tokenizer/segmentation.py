"""Segmentation: a `tokenizers.Tokenizer` built from a vocabulary and its rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vocabkit.arrow.arrow_file import take
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.tokenizer.library import check_sound, parts_of, refusing_failures
from vocabkit.tokenizer.rules import LOW_LINES, STRIP_END, STRIP_START, Rules, Step
from vocabkit.tokenizer.special_tokens import library_ids
from vocabkit.tokenizer.spelling import to_alphabet
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


def load_rules(vocabulary: Vocabulary) -> Rules | None:
    """Load the rules of a vocabulary's tokenizer; None if its source has none that `Rules` can express.

    Raises VocabkitError: the source is missing, or its rules contradict its vocabulary.
    """
    segmentation = vocabulary.segmentation
    if segmentation is None:
        return None
    with refusing_damaged(vocabulary):
        if isinstance(segmentation, Path | bytes):
            return rules_from_tokenizer_json(vocabulary, parse(segmentation))
        return segmentation()


def parse(source: Path | bytes) -> dict[str, Any]:
    """Parse a tokenizer.json, given as a path or as its bytes."""
    if isinstance(source, bytes):
        content = source
    else:
        with reading(source):
            content = source.read_bytes()
    parts = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw])
    model = msgspec.json.decode(parts.pop("model"), type=dict[str, msgspec.Raw])
    merges = {"merges": _parse_merges(model.pop("merges"))} if "merges" in model else {}
    whole = {key: msgspec.json.decode(part) for key, part in parts.items()}
    return {**whole, "model": {key: msgspec.json.decode(part) for key, part in model.items()} | merges}


def _parse_merges(merges: msgspec.Raw) -> list[tuple[str, str]] | list[str]:
    """Older files write "left right" for a merge. Pairs take a third of the time that lists of any type take."""
    try:
        return msgspec.json.decode(merges, type=list[tuple[str, str]])
    except msgspec.ValidationError:
        return msgspec.json.decode(merges, type=list[str])


@contextmanager
def refusing_damaged(vocabulary: Vocabulary) -> Iterator[None]:
    """Turn what damaged rules raise into a VocabkitError."""
    try:
        yield
    except VocabkitError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        raise VocabkitError(
            f"{vocabulary.name}: {vocabulary.source} has damaged rules for cutting text ({quote(repr(error), 120)})"
        ) from error


def rules_missing(vocabulary: Vocabulary) -> VocabkitError:
    """Return the error for a vocabulary without rules."""
    return VocabkitError(
        f"{vocabulary.name}: {vocabulary.source} does not say how text is cut into tokens; use its tokenizer.json"
    )


def to_tokenizers(vocabulary: Vocabulary, *, mid_text: bool = False) -> Tokenizer:
    """Build a `tokenizers.Tokenizer` that cuts text as the vocabulary's own tokenizer does, adding no special tokens.

    Text that spells a special token is cut like any other.

    Args:
        mid_text: cut as if inside a longer text: no space is added before the first word, and none is stripped from
            the ends.

    Raises:
        VocabkitError: the source doesn't say how its tokenizer cuts text, is missing, or contradicts itself.
    """
    if isinstance(vocabulary.segmentation, Path | bytes):
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
    """Encode each text alone, on all cores, without special tokens and offsets.

    Args:
        name: name of the tokenizer, for messages.

    Raises VocabkitError: the tokenizer has no token for some character, and no unknown token.
    """
    with refusing_failures(f"{name}: its tokenizer can't cut a text"):
        return list(tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def build(vocabulary: Vocabulary, content: dict[str, Any], *, mid_text: bool) -> Tokenizer:
    """Build the tokenizer of a parsed tokenizer.json (see `to_tokenizers`)."""
    from tokenizers import Tokenizer

    content = {**content, "truncation": None, "padding": None, "post_processor": None}
    with refusing_damaged(vocabulary):
        check_sound(content)
        if mid_text:
            content["normalizer"] = _inside(content.get("normalizer"))
            content["pre_tokenizer"] = _inside(content.get("pre_tokenizer"))
        encoded = msgspec.json.encode(content)
    with refusing_failures(f"{vocabulary.name}: `tokenizers` does not accept {vocabulary.source}"):
        tokenizer = Tokenizer.from_buffer(encoded)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _inside(step: Step | None) -> Step | None:
    """Remove the parts of a normalizer or pre-tokenizer that act on the ends of the text."""
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
    """Return a tokenizer.json with only the tokens `ids`; their positions in `ids` are its ids."""
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
        # Added tokens are pieces so that `tokenizers` keeps their ids. Of equal spellings the last one wins: one of
        # the model's own pieces, with the lowest id.
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
    """Return the merges (left, right) among `ids`, as positions in `ids`, in merge order."""
    values = take(vocabulary.tokens, ids).to_pylist()
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
    """Return every way to join two pieces to a piece, ordered by `priority` of the result (NaN: not a piece).

    This is how tiktoken ranks and SentencePiece scores define merges; among ways to make one piece, the pair with the
    lower ids comes first.
    """
    pieces = [i for i in np.argsort(priority, kind="stable").tolist() if not np.isnan(priority[i])]
    ids = {values[i]: i for i in reversed(pieces)}
    merges: list[tuple[int, int]] = []
    for piece in pieces:
        value = values[piece] or b""
        cuts = ((value[:cut], value[cut:]) for cut in range(1, len(value)))
        merges += sorted([(ids[left], ids[right]) for left, right in cuts if left in ids and right in ids])
    return merges


def spellings(vocabulary: Vocabulary, rules: Rules, ids: Sequence[int] | np.ndarray) -> list[str | None]:
    """Return the spellings of `ids`; None for an id without a token.

    Byte-level pieces in the byte alphabet; SentencePiece pieces with `▁` for a space and `<0xNN>` for byte-fallback;
    added tokens of byte-level vocabularies and special tokens literally.
    """
    index = np.asarray(ids, np.int64)
    values = take(vocabulary.tokens, index).to_pylist()
    kinds = vocabulary.kinds[index].tolist()
    own = (~np.isnan(rules.priority[index])).tolist()
    if rules.spelling == "byte-level":
        return [_byte_level(*each) for each in zip(values, kinds, own, strict=True)]
    return [_sentencepiece(*each) for each in zip(values, kinds, strict=True)]


def _byte_level(value: bytes | None, kind: int, own: bool) -> str | None:
    if value is None:
        return None
    return to_alphabet(value) if own and kind <= Kind.BYTE else value.decode("utf-8", "replace")


def _sentencepiece(value: bytes | None, kind: int) -> str | None:
    if value is None:
        return None
    if kind == Kind.BYTE:
        return f"<0x{value[0]:02X}>"
    text = value.decode("utf-8", "replace")
    return text.replace(" ", "▁") if kind == Kind.TEXT else text


_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_NOT_OPTIONS = ("type", "vocab", "merges", "unk_token", "unk_id")


def rules_from_tokenizer_json(vocabulary: Vocabulary, content: Mapping[str, Any]) -> Rules | None:
    """Return the rules of the parsed tokenizer.json that `vocabulary` was read from.

    None if `Rules` can't express them: WordPiece, or pieces that mark the end of a word.

    Raises KeyError, TypeError, ValueError, AttributeError: the file contradicts itself.
    """
    model = content["model"]
    kind = model.get("type") or ("Unigram" if isinstance(model["vocab"], list) else "BPE")
    if kind not in ("BPE", "Unigram"):
        return None
    merges = None
    priority = np.full(len(vocabulary), np.nan, np.float32)
    if kind == "BPE":
        vocab: Mapping[str, int] = model["vocab"]
        pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        if any(left + right not in vocab for left, right in pairs):
            return None
        merges = np.array([[vocab[left], vocab[right]] for left, right in pairs], np.int32).reshape(-1, 2)
        priority[list(vocab.values())] = 0
        unk = vocab.get(model.get("unk_token") or "")
    else:
        vocab = {piece: i for i, (piece, _) in enumerate(model["vocab"])}
        scores = np.array([score for _, score in model["vocab"]], np.float64)
        if not (np.abs(scores) <= np.finfo(np.float32).max).all():
            raise ValueError("a score beyond float32")
        priority[: len(scores)] = scores
        unk = model.get("unk_id")
    added = [token for token in content.get("added_tokens") or () if token["content"]]
    ids = library_ids([token["content"] for token in added], vocab, len(model["vocab"]))
    priority[list(ids.values())] = np.nan
    rules = Rules(
        model="bpe" if kind == "BPE" else "unigram",
        spelling="byte-level" if _is_byte_level(content) else "sentencepiece",
        priority=priority,
        merges=merges,
        unk=unk,
        normalizer=content.get("normalizer"),
        pre_tokenizer=content.get("pre_tokenizer"),
        options={key: value for key, value in model.items() if key not in _NOT_OPTIONS},
        added={
            flag: flagged
            for flag in _FLAGS
            if (flagged := [ids[token["content"]] for token in added if token.get(flag)])
        },
    )
    own = np.flatnonzero(~np.isnan(priority)).tolist()
    found = [vocab.get(piece or "") for piece in spellings(vocabulary, rules, own)]
    return rules if found == own else None


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    steps = [*parts_of(content.get("pre_tokenizer"), "pretokenizers"), *parts_of(content.get("decoder"), "decoders")]
    return any(step["type"] == "ByteLevel" for step in steps)
