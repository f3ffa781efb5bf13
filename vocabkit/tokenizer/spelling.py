"""Spellings of bytes: the byte alphabet of GPT-2 (openai/gpt-2, encoder.py), and byte-fallback pieces.

The alphabet has one printable character for each of the 256 bytes: printable Latin-1 characters represent themselves,
the other bytes are U+0100 and up in byte order, so that `Ġ` is a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_OWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHER = [byte for byte in range(256) if byte not in set(_OWN)]
ALPHABET: dict[int, str] = {b: chr(b) for b in _OWN} | {b: chr(0x100 + i) for i, b in enumerate(_OTHER)}
"""byte -> character"""

_FROM_LATIN1 = dict(ALPHABET)
_OUTSIDE = -1
_BYTE_OF = np.full(0x145, _OUTSIDE, np.int16)
_BYTE_OF[[ord(character) for character in ALPHABET.values()]] = list(ALPHABET)


def from_alphabet(piece: str) -> bytes:
    """Decode one piece as a byte-level decoder does.

    A piece with a character outside the alphabet is taken literally, as UTF-8, as `tokenizers` does.
    """
    codes = _BYTE_OF[np.minimum([ord(character) for character in piece], 0x144)] if piece else _BYTE_OF[:0]
    return piece.encode() if (codes == _OUTSIDE).any() else codes.astype(np.uint8).tobytes()


def all_from_alphabet(pieces: Sequence[str]) -> tuple[pa.Array, np.ndarray]:
    """Apply `from_alphabet` to all pieces at once: (V,) binary, and the positions of pieces that are taken literally,
    which encode never makes.
    """
    codes = np.frombuffer("".join(pieces).encode("utf-32-le"), "<u4")
    offsets = np.zeros(len(pieces) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, pieces), np.int32, len(pieces)), out=offsets[1:])
    values = _BYTE_OF[np.minimum(codes, 0x144)]
    outside = np.flatnonzero(values == _OUTSIDE)
    if len(outside):
        respelled, literal = list(pieces), np.unique(np.searchsorted(offsets, outside, side="right") - 1)
        for position in literal.tolist():
            respelled[position] = to_alphabet(pieces[position].encode())
        return all_from_alphabet(respelled)[0], literal
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values.astype(np.uint8))]
    return pa.Array.from_buffers(pa.binary(), len(pieces), buffers), outside


def to_alphabet(value: bytes) -> str:
    """Return the piece that spells `value`."""
    return value.decode("latin-1").translate(_FROM_LATIN1)


_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_piece(spelling: str) -> bytes | None:
    """Return the byte of a byte-fallback piece, `<0x00>` to `<0xFF>` (SentencePiece); None for any other spelling."""
    match = _PIECE.fullmatch(spelling)
    return bytes.fromhex(match[1]) if match else None
