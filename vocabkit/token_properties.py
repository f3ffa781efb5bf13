"""Properties of token bytes that reports break down by: script, length, valid UTF-8."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa

from vocabkit.arrow_values import token_buffers

PARTIAL_UTF8 = "partial UTF-8"
LENGTHS = ("1", "2", "3", "4", "5-8", "9-16", "17+")
"""Classes of token lengths in bytes."""
_LENGTH_STARTS = np.array([2, 3, 4, 5, 9, 17])
_MAYBE_LETTER = re.compile(r"[^\W\d_]")
_SCRIPT_OF = {"cjk": "Han", "ideographic": "Han", "modifier": "symbols", "caron": "symbols"}
_TWO_WORDS = {"canadian", "inscriptional", "meetei", "ol", "old", "tai"}
"""First words of script names that say nothing alone: Old Persian, Tai Le."""


def scripts(tokens: pa.Array) -> tuple[np.ndarray, tuple[str, ...]]:
    """The script of each token's first letter (`Latin`, `Han`, ...), else `digits`, `whitespace`, `symbols` or
    `partial UTF-8`: codes (V,) int32, and the names that they index.

    Scripts are told from the first word of the letter's Unicode name, which Python carries. Variants count as the
    letter that they stand for: a fullwidth or mathematical A is Latin.
    """
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(_script(token), len(numbers)) for token in tokens.to_pylist()]
    return np.array(codes, np.int32), tuple(numbers)


def length_classes(tokens: pa.Array) -> np.ndarray:
    """(V,) int64: the index into `LENGTHS` of each token, which must not be empty."""
    classes: np.ndarray = np.searchsorted(_LENGTH_STARTS, np.diff(token_buffers(tokens)[0]), side="right")
    return classes


def varied(rows: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """`count` of `rows` as examples: the first row of each class, largest class first, then the second, and so on.

    Args:
        rows: (R,) int64.
        classes: (R,) int32, the class of each row.
    """
    order = np.argsort(classes, kind="stable")
    _, start, size = np.unique(classes[order], return_index=True, return_counts=True)
    turn = np.arange(len(rows)) - np.repeat(start, size)
    chosen: np.ndarray = rows[order][np.lexsort((-np.repeat(size, size), turn))[:count]]
    return chosen


def _script(token: bytes) -> str:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return PARTIAL_UTF8
    for match in _MAYBE_LETTER.finditer(text):
        letter = unicodedata.normalize("NFKC", match[0])[0]
        if letter.isalpha():
            return _letter_script(letter)
    if text.isspace():
        return "whitespace"
    return "digits" if any(character.isdigit() for character in text) else "symbols"


@cache
def _letter_script(letter: str) -> str:
    words = unicodedata.name(letter, "other letters").replace("-", " ").lower().split()
    if words[0] in _TWO_WORDS:
        return " ".join(words[:2]).title()
    return _SCRIPT_OF.get(words[0], words[0].capitalize())
