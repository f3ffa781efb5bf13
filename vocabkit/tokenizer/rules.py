"""Rules: how a tokenizer cuts text, in the terms of tokenizer.json. Plain data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

Step = dict[str, Any]
"""A normalizer or pre-tokenizer as in tokenizer.json."""

STRIP_START: Step = {"type": "Replace", "pattern": {"Regex": r"\A +"}, "content": ""}
STRIP_END: Step = {"type": "Replace", "pattern": {"Regex": r" +\z"}, "content": ""}
"""Strip spaces off one end of a text; the step "Strip" would also strip line breaks."""

LOW_LINES: Step = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
"""Replaces spaces by low lines, as SentencePiece does."""


@dataclass(frozen=True, eq=False)
class Rules:
    """How text is cut into the tokens of a vocabulary of V ids."""

    model: Literal["bpe", "unigram"]
    spelling: Literal["byte-level", "sentencepiece"]
    """How `tokenizers` spells the pieces: the byte alphabet, or text with `▁` for a space and `<0xNN>`."""
    priority: np.ndarray
    """(V,) float32. NaN: not a piece of the model (special and added tokens). Otherwise unigram: log probability; bpe
    without `merges`: merges that make a lower number come first."""
    merges: np.ndarray | None = None
    """(M, 2) int32, ids of left and right in merge order. None: any two pieces whose bytes join to a piece."""
    unk: int | None = None
    """Id of characters without a piece."""
    normalizer: Step | None = None
    pre_tokenizer: Step | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of tokenizer.json's "model", such as `ignore_merges`."""
    added: Mapping[str, list[int]] = field(default_factory=dict)
    """Flag of tokenizer.json's "added_tokens" (`normalized`, `lstrip`, ...) -> ids that have it."""


@cache
def pretokenizers() -> Mapping[str, Mapping[str, Any]]:
    """Map names of pre-tokenizers to arguments of `byte_level_rules` (pretokenizers.toml)."""
    return tomllib.loads((Path(__file__).parent / "pretokenizers.toml").read_text("utf-8"))


def byte_level_rules(
    priority: np.ndarray,
    *,
    merges: np.ndarray | None = None,
    pattern: str | None = None,
    gpt2_pattern: bool = False,
    digits: bool = False,
    normalizer: str | None = None,
    ignore_merges: bool = False,
) -> Rules:
    """Return the rules of a byte-level BPE.

    Args:
        pattern: regular expression that matches the words.
        gpt2_pattern: words are those of GPT-2.
        digits: split digits into words of one digit first.
        normalizer: Unicode normal form, such as NFC.
        ignore_merges: keep words whole that are a piece.
    """
    steps: list[Step] = []
    if digits:
        steps.append({"type": "Digits", "individual_digits": True})
    if pattern is not None:
        steps.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": gpt2_pattern})
    return Rules(
        model="bpe",
        spelling="byte-level",
        priority=priority,
        merges=merges,
        normalizer={"type": normalizer} if normalizer else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        options={"ignore_merges": ignore_merges},
    )


def sentencepiece_rules(
    model: Literal["bpe", "unigram"],
    priority: np.ndarray,
    *,
    unk: int | None,
    prefix: bool,
    byte_fallback: bool,
    charsmap: str | None = None,
    collapse_spaces: bool = False,
) -> Rules:
    """Return the rules of a SentencePiece model.

    Args:
        prefix: put a space before the text (`add_dummy_prefix`), but not before an added token at its start.
        charsmap: base64 of the normalizer's precompiled character map.
        collapse_spaces: trim the text and each stretch between added tokens, and treat runs of spaces as one
            (`remove_extra_whitespaces`).
    """
    steps: list[Step] = []
    if charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if collapse_spaces:
        steps += [STRIP_END] if prefix else [STRIP_START, STRIP_END]
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    steps.append(LOW_LINES)
    pre_tokenizer = (_ONE_SPACE_BEFORE if collapse_spaces else _SPACE_BEFORE) if prefix else None
    return Rules(
        model=model,
        spelling="sentencepiece",
        priority=priority,
        unk=unk,
        normalizer={"type": "Sequence", "normalizers": steps} if len(steps) > 1 else LOW_LINES,
        pre_tokenizer=pre_tokenizer,
        options={"byte_fallback": byte_fallback} | ({"fuse_unk": True} if model == "bpe" else {}),
    )


def _metaspace(replacement: str, scheme: str) -> Step:
    return {"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": False}


_ONE_SPACE_BEFORE = _metaspace("▁", "first")
"""Puts `▁` before a text that does not start with it."""
_SPACE_BEFORE: Step = {"type": "Sequence", "pretokenizers": [_metaspace(" ", "first"), _metaspace("▁", "never")]}
"""Puts `▁` before any text, which holds no spaces. (The normalizer "Prepend" also puts one after each added token.)"""
