"""tokenizer.json of Hugging Face `tokenizers`: byte-level BPE, SentencePiece-style BPE and Unigram, WordPiece.

How pieces spell bytes is decided from the file's own decoder, or from its pre-tokenizer where it has no decoder;
never from a class name and never from how pieces look. The rules of each decoder are those of `tokenizers`
(tokenizers/src/decoders).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vocabkit.byte_alphabet import from_alphabet
from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading
from vocabkit.readers.byte_fallback import byte_piece
from vocabkit.special_tokens import roles, special_kind
from vocabkit.vocabulary import MAX_TOKENS, Kind, Vocabulary, make_vocabulary

_CONFIG_ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read a tokenizer.json. Roles, embedding rows and width come from tokenizer_config.json and config.json
    where these stand beside it.

    Raises VocabkitError: not JSON, not a tokenizer, ids out of range or claimed twice, a decoder that vocabkit
    does not know.
    """
    return from_content(path, load_json(path), name)


def from_content(path: Path, content: Mapping[str, Any], name: str | None = None) -> Vocabulary:
    """As `read`, from the parsed file."""
    try:
        pieces = _pieces(path, content)
        spellings, is_added, special = _merge_added(path, pieces, content.get("added_tokens") or [])
        to_bytes, notes = _piece_decoder(path, content)
        unk = _unknown_piece(content["model"], spellings)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise VocabkitError(f"{path}: not a tokenizer.json (no valid model vocabulary); {quote(repr(error))}") from error

    size = max(spellings, default=-1) + 1
    tokens: list[bytes | None] = [None] * size
    kinds = np.full(size, Kind.UNUSED, np.uint8)
    for token_id, spelling in spellings.items():
        if token_id in special or token_id == unk:
            tokens[token_id] = spelling.encode("utf-8", "surrogatepass")
            kinds[token_id] = special_kind(spelling)
        else:
            tokens[token_id], kinds[token_id] = to_bytes(spelling)
    named = {i: spellings[i] for i in spellings if kinds[i] == Kind.SPECIAL}
    declared = _declared_roles(path.parent / "tokenizer_config.json", named)
    if unk is not None:
        declared.setdefault("unk", unk)
    config = _optional_json(path.parent / "config.json")
    config = config.get("text_config") or config
    return make_vocabulary(
        name=name or path.parent.resolve().name,
        source=path.name,
        tokens=tokens,
        kinds=kinds,
        added=is_added(size),
        roles=roles(named, kinds, declared),
        embedding_rows=_positive(config.get("vocab_size")),
        width=_positive(config.get("hidden_size")),
        notes=notes,
        segmentation=path,
    )


def load_json(path: Path) -> Any:
    """The JSON object in `path`. Raises VocabkitError if it is missing, not UTF-8, not JSON or not an object."""
    with reading(path):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise VocabkitError(f"{path}: not UTF-8 (byte {error.start}); expected a JSON file") from error
    except json.JSONDecodeError as error:
        raise VocabkitError(f"{path}: not valid JSON ({error.msg}, line {error.lineno}); is it truncated?") from error
    except (RecursionError, ValueError) as error:
        raise VocabkitError(f"{path}: not readable JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise VocabkitError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def _pieces(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """id -> spelling of the model's own pieces. A Unigram vocabulary is a list of [piece, score]."""
    vocab = content["model"]["vocab"]
    if isinstance(vocab, list):
        return dict(enumerate(_spelling(path, entry[0]) for entry in vocab))
    pieces: dict[int, str] = {}
    for spelling, token_id in vocab.items():
        _check_id(path, spelling, token_id)
        if token_id in pieces:
            raise VocabkitError(
                f"{path}: id {token_id} belongs to two pieces, {quote(pieces[token_id])} and {quote(spelling)}"
            )
        pieces[token_id] = spelling
    return pieces


def _merge_added(
    path: Path, pieces: dict[int, str], added: list[Any]
) -> tuple[dict[int, str], Callable[[int], np.ndarray], set[int]]:
    """Put the added tokens over the pieces: all spellings, which ids are added only, which are special."""
    spellings, seen, special = pieces, dict[int, str](), set[int]()
    only_added: list[int] = []
    for entry in added:
        token_id, content = entry["id"], _spelling(path, entry["content"])
        _check_id(path, content, token_id)
        if token_id in seen:
            raise VocabkitError(
                f"{path}: id {token_id} belongs to two added tokens, {quote(seen[token_id])} and {quote(content)}"
            )
        seen[token_id] = content
        if spellings.get(token_id) != content:
            only_added.append(token_id)
        spellings[token_id] = content
        if entry.get("special"):
            special.add(token_id)

    def is_added(size: int) -> np.ndarray:
        mask = np.zeros(size, bool)
        mask[only_added] = True
        return mask

    return spellings, is_added, special


def _spelling(path: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise VocabkitError(f"{path}: a token is spelled {quote(repr(value))}, expected text")
    return value


def _check_id(path: Path, spelling: str, token_id: Any) -> None:
    if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS:
        raise VocabkitError(
            f"{path}: token {quote(spelling)} has id {quote(repr(token_id))}, expected 0..{MAX_TOKENS - 1}"
        )


def _unknown_piece(model: Mapping[str, Any], spellings: Mapping[int, str]) -> int | None:
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"]) if model["unk_id"] in spellings else None
    unk = model.get("unk_token")
    return next((i for i, spelling in spellings.items() if spelling == unk), None) if unk else None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


# ---- roles -------------------------------------------------------------------------------------------------------


def _declared_roles(path: Path, special: Mapping[int, str]) -> dict[str, int]:
    """Roles of tokenizer_config.json (`bos_token`, ...), a text or {"content": text}."""
    config = _optional_json(path)
    ids = {spelling: i for i, spelling in special.items()}
    declared: dict[str, int] = {}
    for role in _CONFIG_ROLES:
        token = config.get(f"{role}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content in ids:
            declared[role] = ids[content]
    return declared


def _optional_json(path: Path) -> dict[str, Any]:
    return load_json(path) if path.is_file() else {}


# ---- decoders ----------------------------------------------------------------------------------------------------

PieceDecoder = Callable[[str], tuple[bytes, int]]
"""spelling -> (bytes, kind)"""


def _piece_decoder(path: Path, content: Mapping[str, Any]) -> tuple[PieceDecoder, tuple[str, ...]]:
    """How one piece in the middle of a text turns into bytes, and notes for the user."""
    steps = _flatten(content.get("decoder"), "decoders") or _implied_decoder(path, content)
    names = [step["type"] for step in steps]
    if names == ["ByteLevel"]:
        return (lambda piece: (from_alphabet(piece), Kind.TEXT)), ()
    if names == ["WordPiece"]:
        return _wordpiece_decoder(steps[0]), _wordpiece_notes(content)
    replacements: list[tuple[str, str]] = []
    fallback = False
    for step in steps:
        match step["type"]:
            case "Replace" if "String" in step["pattern"] and not fallback:
                replacements.append((step["pattern"]["String"], step["content"]))
            case "Metaspace" if not fallback:
                replacements.append((step.get("replacement", "▁"), " "))
            case "BPEDecoder" if not fallback:
                replacements.append((step.get("suffix", "</w>"), " "))
            case "ByteFallback":
                fallback = True
            case "Fuse" | "Strip":
                pass  # these act on the ends of a whole text only
            case _:
                raise VocabkitError(
                    f"{path}: decoder {quote(' + '.join(map(str, names)))} is not known to vocabkit; please report the tokenizer"
                )

    def decode(piece: str) -> tuple[bytes, int]:
        if fallback and (byte := byte_piece(piece)) is not None:
            return byte, Kind.BYTE
        for old, new in replacements:
            piece = piece.replace(old, new)
        return piece.encode("utf-8", "surrogatepass"), Kind.TEXT

    return decode, ()


def _implied_decoder(path: Path, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The decoder that belongs to the pre-tokenizer, for files that have no decoder."""
    steps = _flatten(content.get("pre_tokenizer"), "pretokenizers")
    for step in steps:
        if step["type"] in ("ByteLevel", "Metaspace"):
            fallback = [{"type": "ByteFallback"}] if content["model"].get("byte_fallback") else []
            return [step, *fallback] if step["type"] == "Metaspace" else [{"type": "ByteLevel"}]
    if content["model"].get("type") == "WordPiece":
        return [{"type": "WordPiece", "prefix": content["model"].get("continuing_subword_prefix", "##"), "cleanup": False}]
    raise VocabkitError(
        f"{path}: has no decoder, and its pre-tokenizer does not tell how pieces spell bytes; add a decoder to the file"
    )


def _flatten(step: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step[key] for inner in _flatten(part, key)]
    return [step]


_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def _wordpiece_decoder(step: Mapping[str, Any]) -> PieceDecoder:
    """A bare piece starts a word, so it brings its space; `##x` continues one."""
    prefix, cleanup = step.get("prefix", "##"), step.get("cleanup", True)

    def decode(piece: str) -> tuple[bytes, int]:
        text = piece.removeprefix(prefix) if prefix and piece.startswith(prefix) else " " + piece
        if cleanup:
            for old, new in _CLEANUP:
                text = text.replace(old, new)
        return text.encode("utf-8", "surrogatepass"), Kind.TEXT

    return decode


def _wordpiece_notes(content: Mapping[str, Any]) -> tuple[str, ...]:
    for step in _flatten(content.get("normalizer"), "normalizers"):
        if step["type"] == "Lowercase" or step.get("lowercase"):
            return ("lower-cases text, so capital letters and accents are lost: its tokens match lower-case text only",)
    return ()
