"""Rules of a tokenizer.json, so that a snapshot can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vocabkit.segmentation.rules import Rules, Step
from vocabkit.segmentation.spelling import spellings
from vocabkit.vocabulary import Vocabulary

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_NOT_OPTIONS = ("type", "vocab", "merges", "unk_token", "unk_id")


def rules_from_tokenizer_json(vocabulary: Vocabulary, content: Mapping[str, Any]) -> Rules | None:
    """Rules of a parsed tokenizer.json that `vocabulary` was read from.

    None for what `Rules` can't hold: WordPiece, pieces with a mark for the end of a word.

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
    added = content.get("added_tokens") or ()
    priority[[token["id"] for token in added]] = np.nan
    rules = Rules(
        model="bpe" if kind == "BPE" else "unigram",
        spelling="byte-level" if _is_byte_level(content) else "sentencepiece",
        priority=priority,
        merges=merges,
        unk=unk,
        normalizer=content.get("normalizer"),
        pre_tokenizer=content.get("pre_tokenizer"),
        options={key: value for key, value in model.items() if key not in _NOT_OPTIONS},
        added={flag: ids for flag in _FLAGS if (ids := [token["id"] for token in added if token.get(flag)])},
    )
    own = np.flatnonzero(~np.isnan(priority)).tolist()
    found = [vocab.get(piece or "") for piece in spellings(vocabulary, rules, own)]
    return rules if found == own else None


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    steps = [*_steps(content.get("pre_tokenizer"), "pretokenizers"), *_steps(content.get("decoder"), "decoders")]
    return any(step["type"] == "ByteLevel" for step in steps)


def _steps(step: Step | None, key: str) -> list[Step]:
    if step is None:
        return []
    return [inner for part in step[key] for inner in _steps(part, key)] if step["type"] == "Sequence" else [step]
