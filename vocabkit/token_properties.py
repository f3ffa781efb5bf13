"""Properties of token bytes that reports break down by: script, length, valid UTF-8."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa

from vocabkit.vocabulary import token_buffers

PARTIAL_UTF8 = "partial UTF-8"
LENGTHS = ("1", "2", "3", "4", "5-8", "9-16", "17+")
_LENGTH_STARTS = np.array([1, 2, 3, 4, 5, 9, 17])
_LETTER = re.compile(r"[^\W\d_]")
_ENGLISH = {"cjk": "Han", "no": "other", "masculine": "Latin", "feminine": "Latin", "micro": "Greek"}


def scripts(tokens: pa.Array) -> np.ndarray:
    """(V,) object: the script of each token's first letter (`Latin`, `Han`, ...), else `digits`, `whitespace`,
    `symbols` or `partial UTF-8`.

    Scripts are told from the first word of the letter's Unicode name, which Python carries.
    """
    return np.array([_script(token) for token in tokens.to_pylist()], object)


def length_classes(tokens: pa.Array) -> np.ndarray:
    """(V,) object: the class of `LENGTHS`, in bytes, that each token falls into."""
    lengths = np.diff(token_buffers(tokens)[0])
    return np.array(LENGTHS, object)[np.searchsorted(_LENGTH_STARTS, lengths, side="right") - 1]


def _script(token: bytes) -> str:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return PARTIAL_UTF8
    letter = _LETTER.search(text)
    if letter:
        return _letter_script(letter.group())
    if text.isspace():
        return "whitespace"
    return "digits" if any(character.isdigit() for character in text) else "symbols"


@cache
def _letter_script(letter: str) -> str:
    word = unicodedata.name(letter, "other").split()[0].split("-")[0].lower()
    return _ENGLISH.get(word, word.capitalize())
