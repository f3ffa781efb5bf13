"""The byte alphabet of GPT-2 (openai/gpt-2, encoder.py): one printable character for each of the 256 bytes.

Printable Latin-1 characters stand for themselves, the other bytes for U+0100 and up in byte order: `Ġ` is a space.
"""

from __future__ import annotations

_OWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHER = [byte for byte in range(256) if byte not in set(_OWN)]
ALPHABET: dict[int, str] = {b: chr(b) for b in _OWN} | {b: chr(0x100 + i) for i, b in enumerate(_OTHER)}
"""byte -> character"""

_NOT_IN_ALPHABET = "\uffff"
_TO_LATIN1 = dict.fromkeys(range(256), _NOT_IN_ALPHABET) | {ord(c): chr(b) for b, c in ALPHABET.items()}
_FROM_LATIN1 = dict(ALPHABET)


def from_alphabet(piece: str) -> bytes:
    """Bytes that a byte-level decoder makes of one piece.

    A piece with a character outside the alphabet is taken literally, as UTF-8, as `tokenizers` does.
    """
    if piece.isascii():
        return piece.encode()
    try:
        return piece.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "surrogatepass")


def to_alphabet(value: bytes) -> str:
    """The piece that stands for `value`."""
    return value.decode("latin-1").translate(_FROM_LATIN1)
