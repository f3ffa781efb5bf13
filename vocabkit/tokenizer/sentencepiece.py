"""SentencePiece .model files (google/sentencepiece, sentencepiece_model.proto), without the protobuf library."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import optional_json
from vocabkit.tokenizer.rules import Rules, sentencepiece_rules
from vocabkit.tokenizer.special_tokens import declared_ids, read_declarations, reserved_ids, roles, special_kind
from vocabkit.tokenizer.spelling import byte_piece
from vocabkit.tokenizer.vocabulary import MAX_TOKENS, Kind, Precedence, Vocabulary, check_highest_id, make_vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_MODELS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}


@dataclass(frozen=True)
class Model:
    """The fields of a ModelProto that are used."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    model_type: int = 1
    special_ids: tuple[int, int, int, int] = (0, 1, 2, -1)
    """unk, bos, eos, pad"""
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    denormalises: bool = False
    """Whether it has rules that change decoded text (Marian)."""


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read a SentencePiece model, with the tokens that the files beside it add (see `declarations`).

    Ids are those of the embedding table. XLM-R and its relatives put fairseq's special tokens before the pieces, so
    theirs are shifted.

    Raises VocabkitError: not a SentencePiece model, or of type word or char.
    """
    model = read_model(path)
    if model.model_type not in _MODELS:
        raise VocabkitError(f"{path}: SentencePiece model of type word or char; vocabkit reads unigram and bpe")
    declared = read_declarations(path.parent)
    pieces, types = model.pieces, list(model.types)
    declared_roles = dict(zip(("unk", "bos", "eos", "pad"), model.special_ids, strict=True))
    is_shifted = _is_fairseq(path)
    if is_shifted:
        pieces, types = [*_FAIRSEQ, *pieces[3:]], [_CONTROL] * len(_FAIRSEQ) + types[3:]
        declared_roles = {"bos": 0, "pad": 1, "eos": 2, "unk": 3}
    own = len(pieces)
    spellings: list[str | None] = list(pieces)
    for token in declared.added:
        if token.id >= own:
            check_highest_id(path, token.id, own + len(declared.added))
            spellings.extend([None] * (token.id + 1 - len(spellings)))
            spellings[token.id] = token.content

    kinds = np.zeros(len(spellings), np.uint8)
    tokens: list[bytes | None] = []
    for token_id, (piece, piece_type) in enumerate(zip(pieces, types, strict=True)):
        value, kinds[token_id] = _token(piece, piece_type)
        tokens.append(value)
    tokens += [spelling if spelling is None else spelling.encode() for spelling in spellings[own:]]
    for token_id, spelling in enumerate(spellings):
        if spelling is not None and kinds[token_id] == Kind.TEXT and declared.is_special(token_id, spelling):
            tokens[token_id], kinds[token_id] = spelling.encode(), special_kind(spelling)
    for token_id in reserved_ids(spellings):
        if kinds[token_id] == Kind.TEXT:
            tokens[token_id], kinds[token_id] = (spellings[token_id] or "").encode(), Kind.UNUSED

    precedence = np.where(kinds == Kind.BYTE, Precedence.BYTE, Precedence.PIECE)
    precedence[np.flatnonzero(np.array(types) == _USER_DEFINED)] = Precedence.ADDED
    if model.escape_whitespaces:  # also in text that user-defined pieces are cut from
        precedence[[i for i, piece in enumerate(pieces) if " " in piece]] = Precedence.UNREACHED
    precedence[own:] = Precedence.ADDED
    named = {i: spellings[i] or "" for i in np.flatnonzero(kinds == Kind.SPECIAL).tolist()}
    return make_vocabulary(
        name=name or path.stem,
        source=path.name,
        tokens=tokens,
        kinds=kinds,
        precedence=precedence,
        roles=roles(named, kinds, declared_roles | declared_ids(named, declared)),
        embedding_rows=declared.rows,
        width=declared.width,
        notes=(_DENORMALISES,) if model.denormalises else (),
        segmentation=None if is_shifted else partial(_rules, path),
    )


_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3 of XLM-R (transformers, XLMRobertaTokenizer.fairseq_tokens_to_ids). Piece n of the file has id n + 1."""
_FAIRSEQ_CLASSES = ("XLMRoberta", "MBart", "MBart50", "Nllb", "XGLM")
_DENORMALISES = "rewrites decoded text by a denormaliser, so text may differ from the bytes of its tokens"


def _is_fairseq(path: Path) -> bool:
    """Decide by the class in the config, or without one by the file name that only these models use."""
    named = optional_json(path.with_name("tokenizer_config.json")).get("tokenizer_class")
    if isinstance(named, str):
        return named.removesuffix("Fast").removesuffix("Tokenizer") in _FAIRSEQ_CLASSES
    return path.name == "sentencepiece.bpe.model"


def _token(piece: str, piece_type: int) -> tuple[bytes, Kind]:
    if piece_type in (_CONTROL, _UNKNOWN):
        return piece.encode(), special_kind(piece)
    if piece_type == _UNUSED:
        return piece.encode(), Kind.UNUSED
    if piece_type == _BYTE and (byte := byte_piece(piece)) is not None:
        return byte, Kind.BYTE
    # whatever escape_whitespaces says: that is about encoding; decoding always turns low lines into spaces
    return piece.replace("▁", " ").encode(), Kind.TEXT


def _rules(path: Path) -> Rules:
    model = read_model(path)
    types, scores = np.array(model.types), np.array(model.scores, np.float32)
    kind = _MODELS[model.model_type]
    in_model = (types == _NORMAL) | (types == _BYTE) | (types == _UNKNOWN)
    unk = model.special_ids[0]
    return sentencepiece_rules(
        kind,
        np.where(in_model, -scores if kind == "bpe" else scores, np.nan).astype(np.float32),
        unk=unk if 0 <= unk < len(model.pieces) else None,
        prefix=model.add_dummy_prefix,
        byte_fallback=bool((types == _BYTE).any()),
        charsmap=base64.b64encode(model.charsmap).decode() if model.charsmap else None,
        collapse_spaces=model.remove_extra_whitespaces,
    )


def read_model(path: Path) -> Model:
    """Parse a .model file. Raises VocabkitError: not a ModelProto with pieces."""
    with reading(path):
        content = path.read_bytes()
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    settings: dict[str, object] = {}
    special = [0, 1, 2, -1]
    try:
        for field, value in _fields(content):
            if field == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                pieces.append(_bytes(piece.get(1, b"")).decode())
                scores.append(struct.unpack("<f", _bytes(piece.get(2, b"\0\0\0\0")))[0])
                types.append(_int(piece.get(3, _NORMAL)))
            elif field == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
                settings["model_type"] = _int(trainer.get(3, 1))
                special = [_int32(trainer.get(40 + i, default)) for i, default in enumerate(special)]
            elif field == 3 and isinstance(value, bytes):
                normalizer = dict(_fields(value))
                settings["charsmap"] = _bytes(normalizer.get(2, b""))
                settings["add_dummy_prefix"] = bool(_int(normalizer.get(3, 1)))
                settings["remove_extra_whitespaces"] = bool(_int(normalizer.get(4, 1)))
                settings["escape_whitespaces"] = bool(_int(normalizer.get(5, 1)))
            elif field == 5 and isinstance(value, bytes):
                settings["denormalises"] = bool(dict(_fields(value)).get(2))
    except (ValueError, IndexError, struct.error, TypeError) as error:
        raise VocabkitError(f"{path}: not a SentencePiece model, or truncated ({quote(str(error))})") from error
    if not 0 < len(pieces) <= MAX_TOKENS:
        raise VocabkitError(f"{path}: not a SentencePiece model (it has {len(pieces)} pieces)")
    return Model(pieces, scores, types, special_ids=tuple(special), **settings)  # type: ignore[arg-type]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a protobuf message: varints as int, everything else as bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - at:
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint of more than 10 bytes")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where text is expected")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("text where a number is expected")
    return value


def _int32(value: int | bytes) -> int:
    low = _int(value) & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low
