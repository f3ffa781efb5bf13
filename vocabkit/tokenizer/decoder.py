"""Decoders: the bytes that a token contributes to running text, by the decoder of a tokenizer.json.

Each component means what it means in `tokenizers` (tokenizers/src/decoders), for a token that has others on both sides.
A component is refused by name where its effect on one token depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer.spelling import all_from_alphabet, byte_piece
from vocabkit.tokenizer.vocabulary import Kind

Step = Mapping[str, Any]
"""One component, as in tokenizer.json."""
MAX_GROWTH = 1 << 22
"""Maximum characters that all replacements together may add to the pieces: a bound on memory."""
_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""`cleanup` of WordPiece and CTC (tokenizers/src/decoders/wordpiece.rs)."""


@dataclass(eq=False)
class Decoded:
    """Contribution of V pieces to text."""

    pieces: list[str]
    """Spellings, decoded so far."""
    tokens: pa.Array | None = None
    """(V,) binary, once spellings became bytes."""
    byte_ids: set[int] = field(default_factory=set)
    """Byte-fallback pieces. Those of ASCII are text to later steps, as in `tokenizers`."""
    broken: dict[int, bytes] = field(default_factory=dict)
    """Byte-fallback piece beyond ASCII, part of a character -> its byte. Later steps don't find it."""
    growth: int = 0
    """Characters that replacements have added, at most."""
    is_fused: bool = False
    """Whether the text is one part, so that later steps act on its ends only."""
    unreached: set[int] = field(default_factory=set)
    """Pieces spelled as encode never spells their bytes: outside the byte alphabet, or `<0x0a>` in lower case."""

    def finish(self) -> tuple[pa.Array, np.ndarray]:
        """Return bytes, (V,) binary, and kinds, (V,) uint8: text or byte."""
        kinds = np.full(len(self.pieces), Kind.TEXT, np.uint8)
        kinds[[i for i in self.byte_ids if i in self.broken or len(self.pieces[i].encode()) == 1]] = Kind.BYTE
        if self.tokens is not None:
            return self.tokens, kinds
        values = [piece.encode() for piece in self.pieces]
        for i, byte in self.broken.items():
            values[i] = byte
        return binary_array(values), kinds


def decode_pieces(pieces: Sequence[str], steps: Sequence[Step], word_end: str | None = None) -> Decoded:
    """Decode each of `pieces` by `steps`, a flattened decoder.

    Args:
        word_end: `end_of_word_suffix` of a byte-level model (CLIP). It means a space, as transformers decodes it.

    Raises:
        VocabkitError: an unknown component, or one that can't be applied to a single token.
        KeyError, TypeError, AttributeError: a component that isn't as `tokenizers` writes it.
    """
    decoded = Decoded(list(pieces))
    for step in steps:
        _apply(step, decoded, word_end)
    return decoded


def _apply(step: Step, decoded: Decoded, word_end: str | None) -> None:
    match step["type"]:
        case "Fuse":
            decoded.is_fused = True
        case "Strip" if decoded.is_fused:
            pass  # the ends of the whole text only
        case "Strip":
            decoded.pieces = [_strip(piece, step["content"], step["start"], step["stop"]) for piece in decoded.pieces]
        case "ByteLevel" if decoded.tokens is None and not decoded.byte_ids:
            _from_byte_level(decoded, word_end)
        case "ByteFallback" if not decoded.is_fused:
            _from_byte_fallback(decoded)
        case "ByteFallback" if not any(map(byte_piece, decoded.pieces)):
            pass
        case "Replace":
            _replace(step, decoded)
        case "Metaspace" if not decoded.is_fused or step.get("prepend_scheme") == "never":
            _replace_text(decoded, step.get("replacement", "▁"), " ")
        case "BPEDecoder" if not decoded.is_fused:
            _replace_text(decoded, step.get("suffix", "</w>"), " ")
        case "WordPiece" if not decoded.is_fused:
            prefix, cleanup = step.get("prefix", "##"), step.get("cleanup", True)
            decoded.pieces = [_wordpiece(piece, prefix, cleanup) for piece in decoded.pieces]
        case "CTC" if not decoded.is_fused:
            _replace_text(decoded, step.get("pad_token", "<pad>"), "")
            if step.get("cleanup", True):
                decoded.pieces = [_clean(piece) for piece in decoded.pieces]
                _replace_text(decoded, step.get("word_delimiter_token", "|"), " ")
        case other:
            known = ("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Metaspace", "WordPiece")
            where = " after Fuse or ByteLevel" if other in known else ""
            raise VocabkitError(f"its decoder has {quote(str(other))}{where}, which says nothing about a single token")


def _from_byte_level(decoded: Decoded, word_end: str | None) -> None:
    pieces, ended = decoded.pieces, list[int]()
    if word_end:
        ended = [i for i, piece in enumerate(pieces) if piece.endswith(word_end)]
        for i in ended:
            pieces[i] = pieces[i].removesuffix(word_end) + "Ġ"
    decoded.tokens, literal = all_from_alphabet(pieces)
    decoded.unreached |= set(literal.tolist())
    decoded.is_fused = True  # its result is one text


def _from_byte_fallback(decoded: Decoded) -> None:
    for i, piece in enumerate(decoded.pieces):
        if (byte := byte_piece(piece)) is None:
            continue
        decoded.byte_ids.add(i)
        decoded.pieces[i] = byte.decode("ascii", "ignore")
        if not byte.isascii():
            decoded.broken[i] = byte
        if piece[3:5] != piece[3:5].upper():
            decoded.unreached.add(i)


def _replace(step: Step, decoded: Decoded) -> None:
    pattern, new = step["pattern"], step["content"]
    if "String" in pattern:
        _replace_text(decoded, pattern["String"], new)
        return
    expression = pattern["Regex"]
    if decoded.is_fused:
        raise VocabkitError("its decoder has 'Replace' with a regular expression after Fuse, which may join tokens")
    from tokenizers import Regex, decoders

    try:  # their own dialect of regular expressions
        replace = decoders.Replace(Regex(expression), new)
    except Exception as error:  # the bare Exception of tokenizers
        raise VocabkitError(f"its decoder replaces {quote(str(expression))}: {quote(str(error), 120)}") from error
    _check_growth(decoded, sum(map(len, decoded.pieces)) if len(new) > 1 else 0, new)
    decoded.pieces = [replace.decode([piece]) for piece in decoded.pieces]


def _replace_text(decoded: Decoded, old: str, new: str) -> None:
    _check_growth(decoded, sum(piece.count(old) for piece in decoded.pieces) if len(new) > len(old) else 0, new)
    if decoded.tokens is not None and len(old) == 1 and old.isascii():
        values = decoded.tokens.to_pylist()
        decoded.tokens = binary_array([value.replace(old.encode(), new.encode()) for value in values])
    elif decoded.is_fused and (decoded.tokens is not None or len(old) != 1):
        raise VocabkitError(f"its decoder has 'Replace' of {quote(old)} after Fuse or ByteLevel, which may join tokens")
    else:
        decoded.pieces = [piece.replace(old, new) for piece in decoded.pieces]


def _check_growth(decoded: Decoded, count: int, new: str) -> None:
    decoded.growth += count * len(new)
    if decoded.growth > MAX_GROWTH:
        raise VocabkitError(f"its decoder puts {len(new)} characters into {len(decoded.pieces)} pieces, {count} times")


def _strip(piece: str, content: str, start: int, stop: int) -> str:
    leading = min(len(piece) - len(piece.lstrip(content)), start)
    piece = piece[leading:]
    trailing = min(len(piece) - len(piece.rstrip(content)), stop)
    return piece[: len(piece) - trailing]


def _wordpiece(piece: str, prefix: str, cleanup: bool) -> str:
    """A bare piece starts a word, so it brings its space; `##x` continues one."""
    text = piece.removeprefix(prefix) if piece.startswith(prefix) else " " + piece
    return _clean(text) if cleanup else text


def _clean(text: str) -> str:
    for old, new in _CLEANUP:
        text = text.replace(old, new)
    return text
