"""Calls into `tokenizers`: refuse what makes it panic or hang, and turn what it raises into a VocabkitError."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vocabkit.errors import VocabkitError, quote

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Step = Mapping[str, Any]
"""A normalizer, pre-tokenizer or decoder as in tokenizer.json."""


def text_steps(normalizer: Step | None, pre_tokenizer: Step | None) -> Tokenizer:
    """Build a tokenizer without pieces that has these steps.

    Raises ValueError, TypeError, LookupError, AttributeError: they are not as `tokenizers` writes them.
    """
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    content: dict[str, Any] = {
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": model,
    }
    content |= dict.fromkeys(("post_processor", "decoder", "truncation", "padding"))
    check_sound(content)
    try:
        return Tokenizer.from_buffer(msgspec.json.encode(content))
    except Exception as error:  # the bare Exception of tokenizers
        raise ValueError(str(error)) from error


@contextmanager
def refusing_failures(problem: str) -> Iterator[None]:
    """Turn whatever `tokenizers` raises into a VocabkitError. Its panics aren't subclasses of Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise VocabkitError(f"{problem} ({quote(str(error), 120)})") from error


def parts_of(step: Step | None, key: str) -> list[Step]:
    """Return the steps of a sequence, and of those within it."""
    if step is None:
        return []
    return [inner for part in step[key] for inner in parts_of(part, key)] if step["type"] == "Sequence" else [step]


_UNITS = 256
"""Units per block of a trie, one for each byte that may follow."""


def check_sound(content: Mapping[str, Any]) -> None:
    """Refuse what makes `tokenizers` panic, which prints to stderr whether or not the panic is caught.

    Raises ValueError, TypeError, LookupError, AttributeError: merges that make no piece, a pattern that takes
    exponential time, a character map that leads out of itself.
    """
    model = content["model"]
    if model.get("type", "BPE") == "BPE" and model.get("merges"):
        _check_merges(model)
    for part in parts_of(content.get("pre_tokenizer"), "pretokenizers"):
        if isinstance(pattern := part.get("pattern"), Mapping):
            _check_pattern(pattern.get("Regex", ""))
    for step in _steps(content.get("normalizer")):
        if step["type"] == "Precompiled":
            _check_charsmap(base64.b64decode(step["precompiled_charsmap"], validate=True))


_CLASS_OR_ESCAPE = re.compile(r"\[(?:\\.|[^\]\\])*\]|\\.", re.DOTALL)
_GROUP = re.compile(r"\(([^()]*)\)([+*]|\{\d+,\})?")
_REPEAT = re.compile(r"[+*]|\{\d+,\}")


def _check_pattern(pattern: str) -> None:
    """Raises ValueError: a repeat of a repeat, such as `((a+))+`, whose matching backtracks exponentially."""
    left = _CLASS_OR_ESCAPE.sub("x", pattern)
    while group := _GROUP.search(left):  # the innermost first; what is left of a group is whether it repeats
        repeats = _REPEAT.search(group[1])
        if repeats and group[2]:
            raise ValueError(f"pattern {pattern!r} repeats a repeat, which can take exponential time")
        left = left[: group.start()] + ("x+" if repeats or group[2] else "x") + left[group.end() :]


def _check_merges(model: Mapping[str, Any]) -> None:
    vocab, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        joined = left + right.removeprefix(prefix) if right.startswith(prefix) else None
        if not (left in vocab and right in vocab and joined in vocab):
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
