"""What `tokenizers` takes for granted in a tokenizer.json. Where it is not so, the library panics, and prints that."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_UNITS = 256
"""A trie is made of blocks of so many units, one for each byte that may follow."""


def check_sound(content: Mapping[str, Any]) -> None:
    """Raises ValueError, TypeError, LookupError, AttributeError: merges of what is no piece, or a character map that
    leads out of itself.
    """
    model = content["model"]
    if model.get("type", "BPE") == "BPE" and model.get("merges"):
        _check_merges(model)
    for step in _steps(content.get("normalizer")):
        if step["type"] == "Precompiled":
            _check_charsmap(base64.b64decode(step["precompiled_charsmap"], validate=True))


def _check_merges(model: Mapping[str, Any]) -> None:
    vocab, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if not (left in vocab and right in vocab and left + right[len(prefix) :] in vocab):
            raise ValueError(f"merge of {left!r} and {right!r}, which makes no piece")


def _steps(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if step is not None:
        yield step
        for inner in step["normalizers"] if step["type"] == "Sequence" else ():
            yield from _steps(inner)


def _check_charsmap(content: bytes) -> None:
    """SentencePiece's precompiled character map: the bytes of a trie as uint32, the trie, texts that end with NUL.

    A unit of the trie (darts-clone, include/darts.h) is a leaf, whose bit 31 is set and whose other bits are the place
    of a text; or it leads to a block of units, at its own place exclusive-or its offset, as the first one always does.
    """
    size = int.from_bytes(content[:4], "little")
    texts = content[4 + size :]
    texts.decode()
    if len(content) < 4 + size or size == 0 or size % (4 * _UNITS):
        raise ValueError(f"a character map with a trie of {size} bytes")
    units = np.frombuffer(content, "<u4", size // 4, offset=4).astype(np.int64)
    inner = np.flatnonzero((units >> 31 == 0) | (np.arange(len(units)) == 0))
    targets = inner ^ ((units[inner] >> 10) << ((units[inner] & 0x200) >> 6))
    if (targets >= len(units)).any():
        raise ValueError("a character map whose trie leads out of itself")
    leaves = units[targets[(units[inner] & 0x100) != 0]] & 0x7FFFFFFF
    starts = np.flatnonzero((np.frombuffer(texts, np.uint8) & 0xC0) != 0x80)
    if not np.isin(leaves, starts).all():
        raise ValueError("a character map that leads to no text")
