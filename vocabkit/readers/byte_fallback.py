"""Byte-fallback pieces: `<0x00>` to `<0xFF>`, one byte each (SentencePiece, `byte_fallback`)."""

from __future__ import annotations

import re

_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_piece(spelling: str) -> bytes | None:
    """The byte of a byte-fallback piece, None for any other spelling."""
    match = _PIECE.fullmatch(spelling)
    return bytes.fromhex(match[1]) if match else None
