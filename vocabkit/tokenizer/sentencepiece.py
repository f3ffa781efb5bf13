"""SentencePiece .model files (google/sentencepiece, sentencepiece_model.proto), without the protobuf library."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json, optional_json
from vocabkit.tokenizer.rules import Rules, sentencepiece_rules
from vocabkit.tokenizer.special_tokens import (
    added_ids,
    declared_ids,
    read_declarations,
    reserved_ids,
    roles,
    special_kind,
)
from vocabkit.tokenizer.spelling import byte_piece
from vocabkit.tokenizer.vocabulary import MAX_TOKENS, Kind, Precedence, Vocabulary, make_vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _UNUSED, _BYTE = 1, 2, 3, 5, 6
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

    Ids are those of the embedding table: of some families not the numbers of the pieces, but those that their class in
    transformers gives (see `_LAYOUTS`), or those in the vocab.json beside it.

    Raises VocabkitError: not a SentencePiece model, of type word or char, or of a class whose ids are unknown.
    """
    model = read_model(path)
    if model.model_type not in _MODELS:
        raise VocabkitError(f"{path}: SentencePiece model of type word or char; vocabkit reads unigram and bpe")
    declared = read_declarations(path.parent)
    pieces, types = _laid_out(path, model)
    is_shifted = pieces[: len(model.pieces)] != model.pieces
    declared_roles = {} if is_shifted else dict(zip(("unk", "bos", "eos", "pad"), model.special_ids, strict=True))
    own = len(pieces)
    ids_of = {piece: i for i, piece in enumerate(pieces)}
    ids, notes = added_ids([(token.id, token.content) for token in declared.added], declared, ids_of, own)
    spellings: list[str | None] = list(pieces)
    spellings += [content for content, token_id in ids.items() if token_id >= own]

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
    never = " " if model.escape_whitespaces else "▁"  # a space, also in text that user-defined pieces are cut from
    precedence[[i for i, piece in enumerate(pieces) if never in piece]] = Precedence.UNREACHED
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
        notes=(*notes, *((_DENORMALISES,) if model.denormalises else ())),
        segmentation=None if is_shifted else partial(_rules, path),
    )


_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
_LAYOUTS: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    **dict.fromkeys(("xlmroberta", "layoutxlm"), (_FAIRSEQ, 3, ("<mask>",))),
    **dict.fromkeys(("mbart", "mbart50", "nllb", "nllbmoe", "plbart"), (_FAIRSEQ, 3, ())),
    "xglm": (_FAIRSEQ, 3, tuple(f"<madeupword{i}>" for i in range(7))),
    **dict.fromkeys(("seamlessm4t", "seamlessm4tv2"), (("<pad>",), 0, ())),
    "camembert": (("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1, ("<mask>",)),
    "pegasus": (("<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103))), 2, ()),
}
"""Classes of transformers -> the tokens before the pieces, how many pieces these replace, and the tokens after them."""
_BY_VOCAB_JSON = ("marian", "m2m100", "speech2text")
"""Classes whose ids are in the vocab.json beside the model."""
_UNKNOWN_LAYOUTS = ("barthez", "bartpho", "cpmant", "phobert", "xlmprophetnet", "ernie-m", "erniem")
"""Classes with ids of their own, which vocabkit does not know."""
_DENORMALISES = "rewrites decoded text by a denormaliser, so text may differ from the bytes of its tokens"


def _laid_out(path: Path, model: Model) -> tuple[list[str], list[int]]:
    """Pieces and their types in the order of the ids of the embedding table."""
    family = _family(path)
    if family in _UNKNOWN_LAYOUTS:
        raise VocabkitError(
            f"{path}: the ids of a {family} tokenizer are not those of its pieces; give a tokenizer.json"
        )
    ids_file = path.with_name("vocab.json")
    if family in _BY_VOCAB_JSON or (path.suffix == ".spm" and ids_file.is_file()):
        vocab = decode_json(ids_file, dict[str, int], "a vocab.json")
        pieces = sorted(vocab, key=vocab.__getitem__)
        if [vocab[piece] for piece in pieces] != list(range(len(pieces))):
            raise VocabkitError(f"{ids_file}: its ids have gaps or are repeated; give a tokenizer.json")
        types = dict(zip(model.pieces, model.types, strict=True))
        return pieces, [types.get(piece, _CONTROL) for piece in pieces]
    first, dropped, last = _LAYOUTS.get(family, ((), 0, ()))
    if family == "t5":
        extra = optional_json(path.with_name("tokenizer_config.json")).get("extra_ids", 100)
        last = tuple(f"<extra_id_{i}>" for i in reversed(range(extra if isinstance(extra, int) else 0)))
    last = tuple(token for token in last if token not in model.pieces)
    pieces = [*first, *model.pieces[dropped:], *last]
    return pieces, [_CONTROL] * len(first) + model.types[dropped:] + [_CONTROL] * len(last)


def _family(path: Path) -> str:
    """The class of the tokenizer as transformers chooses it, in lower case: by tokenizer_config.json, else by the type
    of the model in config.json. Without either, only relatives of XLM-R have a sentencepiece.bpe.model.
    """
    named = optional_json(path.with_name("tokenizer_config.json")).get("tokenizer_class")
    named = named or optional_json(path.with_name("config.json")).get("model_type")
    if isinstance(named, str):
        return re.sub(r"tokenizer(fast)?$|[_-]", "", named.lower())
    return "xlmroberta" if path.name == "sentencepiece.bpe.model" else ""


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
