"""Tokenizer metadata of a GGUF file (ggml-org/ggml, docs/gguf.md). Only the header is read, never the tensors."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.tokenizer.decoder import decode_pieces
from vocabkit.tokenizer.rules import Rules, byte_level_rules, pretokenizers, sentencepiece_rules
from vocabkit.tokenizer.special_tokens import reserved_ids, roles, special_kind
from vocabkit.tokenizer.spelling import all_from_alphabet, byte_piece
from vocabkit.tokenizer.vocabulary import MAX_TOKENS, Kind, Precedence, Vocabulary, make_vocabulary

MAGIC = b"GGUF"
EMBEDDING = "token_embd.weight"
"""Name of the embedding table."""
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_ROLE_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id",
    "sep": "seperator_token_id", "cls": "cls_token_id", "mask": "mask_token_id", "turn_end": "eot_token_id",
    "message_end": "eom_token_id", "fim_prefix": "fim_pre_token_id", "fim_suffix": "fim_suf_token_id",
    "fim_middle": "fim_mid_token_id", "fim_pad": "fim_pad_token_id",
}  # fmt: skip
_NUMPY_TYPES = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
MODELS = ("gpt2", "llama", "t5", "bert", "gemma4", "rwkv", "plamo2")
"""Values of `tokenizer.ggml.model` that can be read."""


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read the vocabulary of a GGUF model, with the rows and width of its embedding table.

    Raises VocabkitError: not a GGUF, truncated header, no tokenizer, or an unknown tokenizer model.
    """
    metadata, (width, rows) = read_header(path)
    model = metadata.get("tokenizer.ggml.model")
    pieces = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list) or not pieces:
        raise VocabkitError(f"{path}: GGUF without a tokenizer; take the file that holds the language model")
    if isinstance(model, str) and model in ("none", "no_vocab"):
        raise VocabkitError(f"{path}: was made without a tokenizer; give the tokenizer of its model from elsewhere")
    if not isinstance(model, str) or model not in MODELS:
        raise VocabkitError(f"{path}: tokenizer model {quote(str(model))} is not one of {', '.join(MODELS)}")
    types = metadata.get("tokenizer.ggml.token_type")
    types = np.ones(len(pieces), np.int32) if types is None else types
    if not isinstance(types, np.ndarray):
        raise VocabkitError(f"{path}: token types are {quote(repr(types))}, expected an array of numbers")
    if len(types) != len(pieces):
        raise VocabkitError(f"{path}: {len(types)} token types for {len(pieces)} tokens")

    if model == "bert":
        pieces = [_wordpiece(piece, token_type) for piece, token_type in zip(pieces, types.tolist(), strict=True)]
    kinds = np.zeros(len(pieces), np.uint8)
    tokens: list[bytes | None] = []
    decoded, literal = _decoded(pieces, model)
    for token_id, (piece, token_type, value) in enumerate(zip(pieces, types.tolist(), decoded, strict=True)):
        token, kinds[token_id] = _token(piece, token_type, value, byte_level=model == "gpt2")
        tokens.append(token)
    declared = {role: metadata.get(f"tokenizer.ggml.{key}", -1) for role, key in _ROLE_KEYS.items()}
    for token_id in declared.values():  # also those of user-defined type, which are text in all other respects
        if isinstance(token_id, int) and 0 <= token_id < len(pieces) and len(pieces[token_id]) > 1:
            tokens[token_id], kinds[token_id] = pieces[token_id].encode(), Kind.SPECIAL
    for token_id in reserved_ids(pieces):
        if token_id not in declared.values():
            tokens[token_id], kinds[token_id] = pieces[token_id].encode(), Kind.UNUSED
    named = {i: pieces[i] for i in np.flatnonzero(kinds == Kind.SPECIAL).tolist()}
    return make_vocabulary(
        name=name or path.stem,
        source=path.name,
        tokens=tokens,
        kinds=kinds,
        precedence=_precedence(types, kinds, literal),
        roles=roles(named, kinds, {role: i for role, i in declared.items() if isinstance(i, int)}),
        embedding_rows=rows,
        width=width,
        segmentation=partial(_rules, path) if _says_how_to_cut(metadata) else None,
    )


def _decoded(pieces: Sequence[str], model: str) -> tuple[list[bytes], np.ndarray]:
    """Return the bytes of each piece as text, and the pieces that a model with this spelling never makes."""
    match model:
        case "gpt2":
            tokens, literal = all_from_alphabet(pieces)
            return tokens.to_pylist(), literal
        case "rwkv":
            decoded = [_unescape(piece) for piece in pieces]
        case "plamo2":
            decoded = [piece.encode() for piece in pieces]
        case "bert":
            return decode_pieces(pieces, [{"type": "WordPiece"}]).finish()[0].to_pylist(), np.empty(0, np.int64)
        case _:
            decoded = [piece.replace("▁", " ").encode() for piece in pieces]
            return decoded, np.array([i for i, piece in enumerate(pieces) if " " in piece], np.int64)
    return decoded, np.empty(0, np.int64)


def _wordpiece(piece: str, token_type: int) -> str:
    """Return the spelling of a piece in BERT's vocab.txt. llama.cpp's converter writes `▁x` for `x`, `x` for `##x`."""
    if token_type in (_CONTROL, _UNKNOWN):
        return piece
    return piece[1:] if piece.startswith("▁") else f"##{piece}"


def _token(piece: str, token_type: int, decoded: bytes, *, byte_level: bool) -> tuple[bytes, Kind]:
    if token_type in (_CONTROL, _UNKNOWN):
        return piece.encode(), special_kind(piece)
    if token_type == _UNUSED:
        return piece.encode(), Kind.UNUSED
    if token_type == _BYTE and (byte := byte_piece(piece)) is not None:
        return byte, Kind.BYTE
    return (piece.encode() if byte_level and token_type == _USER_DEFINED else decoded), Kind.TEXT


def _unescape(piece: str) -> bytes:
    r"""Return the bytes of a piece of RWKV's world vocabulary, as llama.cpp reads it: `\n` and `\xHH` are one byte."""
    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", _escaped, piece.encode(), flags=re.DOTALL)


def _escaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes.fromhex(code[1:].decode()) if len(code) == 3 else _ESCAPES.get(code, code)


def _precedence(types: np.ndarray, kinds: np.ndarray, literal: np.ndarray) -> np.ndarray:
    """User-defined tokens are cut out first; a model never makes a piece outside its alphabet, or with a space where
    it escapes them.
    """
    found = np.where(kinds == Kind.BYTE, Precedence.BYTE, Precedence.PIECE).astype(np.uint8)
    found[literal] = Precedence.UNREACHED
    found[types == _USER_DEFINED] = Precedence.ADDED
    return found


def _says_how_to_cut(metadata: Mapping[str, Any]) -> bool:
    match metadata["tokenizer.ggml.model"]:
        case "gpt2":
            return str(metadata.get("tokenizer.ggml.pre")) in pretokenizers() and "tokenizer.ggml.merges" in metadata
        case "llama" | "t5":
            return "tokenizer.ggml.scores" in metadata
    return False


def _rules(path: Path) -> Rules:
    metadata, _ = read_header(path)
    pieces, model = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.model"]
    types = np.asarray(metadata.get("tokenizer.ggml.token_type", np.ones(len(pieces), np.int32)))
    normal = types == 1
    if model == "gpt2":
        ids = {piece: i for i, piece in enumerate(pieces)}
        pairs = [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]]
        merges = np.array([[ids[left], ids[right]] for left, right in pairs], np.int32).reshape(-1, 2)
        priority = np.where(normal, 0, np.nan).astype(np.float32)
        return byte_level_rules(priority, merges=merges, **pretokenizers()[metadata["tokenizer.ggml.pre"]])
    scores = np.asarray(metadata["tokenizer.ggml.scores"], np.float32)
    if scores.shape != normal.shape:
        raise ValueError(f"{scores.size} scores for {len(pieces)} tokens")
    unk = metadata.get("tokenizer.ggml.unknown_token_id")
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap")
    in_model = normal | (types == _BYTE) | (types == _UNKNOWN) | (np.arange(len(pieces)) == unk)
    return sentencepiece_rules(
        "bpe" if model == "llama" else "unigram",
        np.where(in_model, -scores if model == "llama" else scores, np.nan).astype(np.float32),
        unk=unk if isinstance(unk, int) and 0 <= unk < len(pieces) else None,
        prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", model == "llama")),  # as in llama.cpp
        byte_fallback=bool((types == _BYTE).any()),
        charsmap=_base64(charsmap) if charsmap is not None else None,
        collapse_spaces=bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
    )


def _base64(values: Sequence[int]) -> str:
    import base64

    return base64.b64encode(np.asarray(values).astype(np.uint8).tobytes()).decode()


# ---- the header --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorPlace:
    """Place of a tensor in a GGUF file."""

    shape: tuple[int, ...]
    """Rows first, as in torch; GGUF writes the opposite order."""
    type: int
    """Quantisation type number."""
    start: int
    """First byte, from the beginning of the file."""


def read_header(path: Path) -> tuple[Mapping[str, Any], tuple[int | None, int | None]]:
    """Metadata (key -> value; arrays of numbers as numpy, of strings as list), and the embedding table's width and
    rows, None without one.

    Raises VocabkitError: not a GGUF of version 2 or 3, an end inside the header, a table of impossible size.
    """
    metadata, tensors = read_tensor_table(path)
    table = tensors.get(EMBEDDING)
    if table is None or len(table.shape) != 2:
        return metadata, (None, None)
    if not all(0 < number < 1 << 31 for number in table.shape):
        raise VocabkitError(f"{path}: an embedding table of {table.shape[0]} x {table.shape[1]}; the file is damaged")
    return metadata, (table.shape[1], table.shape[0])


def read_tensor_table(path: Path) -> tuple[Mapping[str, Any], Mapping[str, TensorPlace]]:
    """Metadata as in `read_header`, and name -> place of every tensor. Raises VocabkitError as `read_header` does."""
    with reading(path), path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise VocabkitError(f"{path}: not a GGUF file")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Cursor(content).header()
        except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
            if isinstance(error, VocabkitError):
                raise
            raise VocabkitError(f"{path}: damaged or truncated GGUF header ({quote(str(error))})") from error


class _Cursor:
    """Reads header values in sequence. Never trusts a length beyond the end of the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 4

    def header(self) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
        version, n_tensors, n_metadata = self._number("<I"), self._number("<Q"), self._number("<Q")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3")
        metadata = {self._string(): self._value(self._number("<I")) for _ in range(n_metadata)}
        tensors = dict(self._tensor() for _ in range(n_tensors))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"an alignment of {alignment}")
        data = -(-self._at // alignment) * alignment
        return metadata, {name: replace(tensor, start=data + tensor.start) for name, tensor in tensors.items()}

    def _tensor(self) -> tuple[str, TensorPlace]:
        name, n_dims = self._string(), self._number("<I")
        if n_dims > 8:
            raise ValueError(f"tensor of {n_dims} dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dims))[::-1]
        return name, TensorPlace(shape, self._number("<I"), self._number("<Q"))

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._content, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def _take(self, size: int) -> bytes:
        if size > len(self._content) - self._at:
            raise ValueError(f"a value of {size} bytes reaches beyond the end of the file")
        value = self._content[self._at : self._at + size]
        self._at += size
        return value

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode()

    def _value(self, code: int) -> Any:
        if code == _STRING:
            return self._string()
        if code == _ARRAY:
            return self._array(self._number("<I"), self._number("<Q"))
        if code not in _NUMPY_TYPES:
            raise ValueError(f"value type {code}")
        dtype = np.dtype(_NUMPY_TYPES[code])
        return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()

    def _array(self, code: int, length: int) -> Any:
        if code == _STRING:
            if length > min(MAX_TOKENS, len(self._content) // 8):
                raise ValueError(f"an array of {length} strings")
            return [self._string() for _ in range(length)]
        if code not in _NUMPY_TYPES:
            raise ValueError(f"array of type {code}")
        dtype = np.dtype(_NUMPY_TYPES[code])
        return np.frombuffer(self._take(length * dtype.itemsize), dtype)
