"""Files in place of a SentencePiece model or of a GGUF model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from json_content import ESCAPE
from tokenizer_files import BYTE, NORMAL, UNKNOWN, charsmap, gguf_file, gguf_tokenizer, protobuf, sentencepiece_model

PIECES = [("<unk>", UNKNOWN), ("a", NORMAL)]
ENDLESS = struct.pack("<Q", (1 << 64) - 1)


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file."""
    yield from sentencepiece_files()
    yield from gguf_headers()
    yield from gguf_tokenizers()


def sentencepiece_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a SentencePiece model."""
    good = sentencepiece_model(PIECES)
    piece = protobuf((1, protobuf((1, b"a"))))
    cases = {
        "truncated": good[:10],
        "declared-huge": b"\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(50),
        "endless-varint": b"\n" + b"\xff" * 50,
        "group": good + b"\x0b\x0c",
        "none": protobuf((2, protobuf((3, 2)))),
        "word-model": sentencepiece_model(PIECES, model_type=3),
        "invalid-utf-8": protobuf((1, protobuf((1, b"\xff\xfe"), (2, 0.0)))),
        "score-is-text": protobuf((1, protobuf((1, b"a"), (2, b"much"), (3, b"normal")))),
        "score-is-nan": protobuf((1, protobuf((1, b"a"), (2, float("nan")))), (2, protobuf((3, 1)))),
        "type-is-text": protobuf((1, protobuf((1, b"a"), (3, b"normal")))),
        "trainer-is-text": piece + protobuf((2, protobuf((3, b"bpe")))),
        "charsmap-is-number": piece + protobuf((3, protobuf((2, 7)))),
        "charsmap-broken": sentencepiece_model(PIECES, normalizer=[(2, b"\xff\xff\xff\xff")]),
        "charsmap-leads-out": sentencepiece_model(PIECES, normalizer=[(2, charsmap((1 << 22) - 1 << 10))]),
        "charsmap-without-text": sentencepiece_model(PIECES, normalizer=[(2, charsmap(1 << 10 | 0x100, 1 << 31 | 99))]),
        "escapes": sentencepiece_model([("<unk>", UNKNOWN), (ESCAPE, NORMAL)]),
        "not-a-byte": sentencepiece_model([("<unk>", UNKNOWN), ("<0xZZ>", BYTE)]),
        "unknown-field": good + b"\xf8\xff\xff\xff\x0f\x00",
    }
    for name, content in cases.items():
        yield f"pieces-{name}.model", content


def gguf_headers() -> Iterator[tuple[str, bytes]]:
    """GGUF headers that lie about what follows."""
    good = gguf_file(gguf_tokenizer(PIECES))
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = struct.pack("<Q", 21) + b"tokenizer.ggml.tokens"
    yield "magic-only.gguf", b"GGUF"
    yield "truncated.gguf", good[:-20]
    yield "version.gguf", b"GGUF" + struct.pack("<IQQ", 99, 0, 0)
    yield "version-1.gguf", b"GGUF" + struct.pack("<IQQ", 1, 0, 0)
    yield "big-endian.gguf", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "endless-metadata.gguf", b"GGUF" + struct.pack("<I", 3) + bytes(8) + ENDLESS
    yield "endless-tensors.gguf", b"GGUF" + struct.pack("<I", 3) + ENDLESS + bytes(8)
    yield "endless-key.gguf", start + ENDLESS
    yield "endless-text.gguf", start + key + struct.pack("<I", 8) + ENDLESS
    yield "endless-texts.gguf", start + key + struct.pack("<II", 9, 8) + ENDLESS
    yield "endless-numbers.gguf", start + key + struct.pack("<II", 9, 4) + ENDLESS
    yield "overflowing-numbers.gguf", start + key + struct.pack("<IIQ", 9, 10, 1 << 61)
    yield "many-texts.gguf", start + key + struct.pack("<IIQ", 9, 8, 1 << 23)
    yield "nested-arrays.gguf", start + key + struct.pack("<IIQ", 9, 9, 1) * 300
    yield "type-unknown.gguf", start + key + struct.pack("<I", 77)
    yield "dimensions.gguf", b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<I", 1 << 31)
    yield "key-invalid-utf-8.gguf", start + struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 0)


def gguf_tokenizers() -> Iterator[tuple[str, bytes]]:
    """GGUF files of sound form with a tokenizer that is none."""
    metadata = gguf_tokenizer(PIECES)
    yield "no-tokenizer.gguf", gguf_file({"general.architecture": "clip"})
    yield "invalid-utf-8.gguf", gguf_file(metadata).replace(b"<unk>", b"<\xff\xfe\xfd>")
    cases: dict[str, Any] = {
        "tokens-are-numbers": {"tokens": [1, 2]},
        "tokens-are-text": {"tokens": "ab"},
        "tokens-are-none": {"tokens": []},
        "model-is-list": {"model": [1, 2]},
        "model-unknown": {"model": ESCAPE},
        "types-too-few": {"token_type": [1]},
        "types-are-number": {"token_type": 1},
        "types-are-texts": {"token_type": ["normal", "normal"]},
        "types-unknown": {"token_type": [-5, (1 << 31) - 1]},
        "scores-are-texts": {"scores": ["much", "little"]},
        "roles-beyond": {"bos_token_id": (1 << 32) - 1, "eos_token_id": "x"},
    }
    for name, changes in cases.items():
        changed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        yield f"{name}.gguf", gguf_file({**metadata, **changed})
    yield "alignment-zero.gguf", gguf_file({**metadata, "general.alignment": 0})
    yield "alignment-text.gguf", gguf_file({**metadata, "general.alignment": "x"})
    yield "table-of-nothing.gguf", gguf_file(metadata, {"token_embd.weight": [0, 0]})
    yield "table-huge.gguf", gguf_file(metadata, {"token_embd.weight": [1 << 63, 1 << 63]})
