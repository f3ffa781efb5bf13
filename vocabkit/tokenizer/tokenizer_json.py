"""tokenizer.json of Hugging Face `tokenizers`: byte-level BPE, SentencePiece-style BPE and Unigram, WordPiece.

How pieces spell bytes is decided from the file's own decoder, or from its pre-tokenizer where it has no decoder;
never from a class name and never from how pieces look. The rules of each decoder are those of `tokenizers`
(tokenizers/src/decoders).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from vocabkit.arrow.values import binary_array
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import optional_json, parse_json
from vocabkit.tokenizer.special_tokens import roles, special_kind
from vocabkit.tokenizer.spelling import all_from_alphabet, byte_piece
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, check_highest_id, make_vocabulary

Step = Mapping[str, Any]
"""One normalizer, pre-tokenizer or decoder."""


class AddedToken(msgspec.Struct):
    """An entry of "added_tokens"."""

    id: int
    content: str
    special: bool = False


class Model(msgspec.Struct):
    """The part of "model" that tells tokens; merges are skipped, which halves time and memory."""

    vocab: dict[str, int] | list[tuple[str, float]]
    """A Unigram vocabulary is a list of [piece, score]."""
    type: str | None = None
    unk_token: str | None = None
    unk_id: int | None = None
    byte_fallback: bool | None = None
    continuing_subword_prefix: str | None = None


class File(msgspec.Struct):
    """The part of a tokenizer.json that tells tokens."""

    model: Model
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read a tokenizer.json. Roles, embedding rows and width come from tokenizer_config.json and config.json
    where these stand beside it.

    Raises VocabkitError: not JSON, not a tokenizer, ids out of range or claimed twice, a decoder that vocabkit
    does not know.
    """
    with reading(path):
        content = path.read_bytes()
    config = optional_json(path.parent / "config.json")
    if isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    return dataclasses.replace(
        parse(
            content,
            name or path.parent.resolve().name,
            optional_json(path.parent / "tokenizer_config.json"),
            where=str(path),
            source=path.name,
        ),
        embedding_rows=_positive(config.get("vocab_size")),
        width=_positive(config.get("hidden_size")),
        segmentation=path,  # read again when text is to be cut, rather than kept in memory
    )


def parse(content: bytes, name: str, special: Mapping[str, Any], *, where: str, source: str) -> Vocabulary:
    """`read` of the bytes of a tokenizer.json, without an embedding table.

    Args:
        special: which tokens have a role, as in tokenizer_config.json: `bos_token` and so on -> spelling.
        where: how errors name the content.
        source: what the vocabulary records as its source.
    """
    file = parse_json(content, where, File, "a tokenizer.json")
    spellings = _spellings(where, file)
    only_added = _add_tokens(where, spellings, file.added_tokens)
    unk = _unknown_piece(file.model, spellings)
    controls = {token.id for token in file.added_tokens if token.special} | ({unk} if unk is not None else set())
    named = {i: spellings[i] or "" for i in sorted(controls)}

    decode, notes = _piece_decoder(where, file)
    tokens, kinds = decode([spelling or "" for spelling in spellings])
    for token_id, spelling in named.items():
        kinds[token_id] = special_kind(spelling)
    declared = _declared_roles(special, named)
    if unk is not None:
        declared.setdefault("unk", unk)
    return make_vocabulary(
        name=name,
        source=source,
        tokens=_with_literals(tokens, spellings, named),
        kinds=kinds,
        added=only_added,
        roles=roles(named, kinds, declared),
        notes=notes,
        segmentation=content,
    )


def _spellings(where: str, file: File) -> list[str | None]:
    """(V,) spellings of the model's own pieces by id, with room for the added tokens."""
    vocab = file.model.vocab
    pieces = [piece for piece, _ in vocab] if isinstance(vocab, list) else list(vocab)
    ids = list(range(len(vocab))) if isinstance(vocab, list) else list(vocab.values())
    added = [token.id for token in file.added_tokens]
    in_order = ids == list(range(len(ids)))  # as in most files, which saves passes over all tokens
    every = [*ids[-1:], *added] if in_order else ids + added
    lowest, top = min(every, default=0), max(every, default=-1)
    if lowest < 0:
        raise VocabkitError(f"{where}: has id {quote(str(lowest))}; ids are counted from 0")
    check_highest_id(where, top, len(ids) + len(added))
    spellings: list[str | None] = [None] * (top + 1)
    if in_order:
        spellings[: len(ids)] = pieces
        return spellings
    for spelling, token_id in zip(pieces, ids, strict=True):
        if spellings[token_id] is not None:
            both = f"{quote(spellings[token_id] or '')} and {quote(spelling)}"
            raise VocabkitError(f"{where}: id {token_id} belongs to two pieces, {both}")
        spellings[token_id] = spelling
    return spellings


def _add_tokens(where: str, spellings: list[str | None], added: Sequence[AddedToken]) -> np.ndarray:
    """Put the added tokens over the pieces in `spellings`. Returns (V,) bool: ids that are no piece of the model."""
    seen: dict[int, str] = {}
    only_added = np.zeros(len(spellings), bool)
    for token in added:
        if token.id in seen:
            both = f"{quote(seen[token.id])} and {quote(token.content)}"
            raise VocabkitError(f"{where}: id {token.id} belongs to two added tokens, {both}")
        seen[token.id] = token.content
        if spellings[token.id] != token.content:
            only_added[token.id] = True
        spellings[token.id] = token.content
    return only_added


def _with_literals(tokens: pa.Array, spellings: Sequence[str | None], special: Mapping[int, str]) -> pa.Array:
    """`tokens` with special tokens spelled as in the file, and null where an id has no token."""
    literals = {i: spelling.encode() for i, spelling in special.items() if tokens[i].as_py() != spelling.encode()}
    holes = [i for i, spelling in enumerate(spellings) if spelling is None] if None in spellings else []
    if not literals and not holes:
        return tokens
    values = tokens.to_pylist()
    for token_id, literal in literals.items():
        values[token_id] = literal
    for token_id in holes:
        values[token_id] = None
    return binary_array(values)


def _unknown_piece(model: Model, spellings: Sequence[str | None]) -> int | None:
    if model.unk_id is not None:
        return model.unk_id if 0 <= model.unk_id < len(spellings) and spellings[model.unk_id] is not None else None
    return spellings.index(model.unk_token) if model.unk_token and model.unk_token in spellings else None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


def _declared_roles(config: Mapping[str, Any], special: Mapping[int, str]) -> dict[str, int]:
    """Roles of tokenizer_config.json (`bos_token`, ...), a text or {"content": text}."""
    ids = {spelling: i for i, spelling in special.items()}
    declared: dict[str, int] = {}
    for role in ("bos", "eos", "pad", "unk", "cls", "sep", "mask"):
        token = config.get(f"{role}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content in ids:
            declared[role] = ids[content]
    return declared


# ---- decoders ----------------------------------------------------------------------------------------------------

MAX_REPLACEMENT = 16
"""Characters that a decoder may put in place of others: more than any does, and no file explodes in memory."""

Decode = Callable[[Sequence[str]], tuple[pa.Array, np.ndarray]]
"""Spellings -> bytes (V,) binary and kinds (V,) uint8, for pieces in the middle of a text."""


def _piece_decoder(where: str, file: File) -> tuple[Decode, tuple[str, ...]]:
    """How pieces turn into bytes, and notes for the user."""
    try:
        steps = _flatten(file.decoder, "decoders") or _implied_decoder(where, file)
        kinds = [step["type"] for step in steps]
        if kinds == ["ByteLevel"]:
            return _all_text(all_from_alphabet), ()
        if kinds == ["WordPiece"]:
            return _all_text(_wordpiece(steps[0])), _wordpiece_notes(file)
        return _replacing(where, steps), ()
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VocabkitError(f"{where}: its decoder is not as `tokenizers` writes it ({quote(repr(error))})") from error


def _all_text(to_bytes: Callable[[Sequence[str]], pa.Array]) -> Decode:
    return lambda pieces: (to_bytes(pieces), np.full(len(pieces), Kind.TEXT, np.uint8))


def _replacing(where: str, steps: Sequence[Step]) -> Decode:
    """SentencePiece-style decoders: replacements, and byte pieces where the file has the step ByteFallback."""
    replacements: list[tuple[str, str]] = []
    fallback = fused = False
    for step in steps:
        match step["type"]:
            case "Replace" if "String" in step["pattern"] and not (fallback or fused):
                replacements.append((step["pattern"]["String"], step["content"]))
            case "Metaspace" if not (fallback or fused):
                replacements.append((step.get("replacement", "▁"), " "))
            case "BPEDecoder" if not (fallback or fused):
                replacements.append((step.get("suffix", "</w>"), " "))
            case "ByteFallback" if not fused:
                fallback = True
            case "Fuse":
                fused = True
            case "Strip" if fused:
                pass  # acts on the ends of a whole text only
            case _:
                names = " + ".join(str(each["type"]) for each in steps)
                raise VocabkitError(f"{where}: decoder {quote(names)} is not known to vocabkit; please report it")

    for old, new in replacements:
        if not isinstance(old, str) or not isinstance(new, str) or not old or len(new) > MAX_REPLACEMENT:
            raise VocabkitError(
                f"{where}: its decoder replaces {quote(repr(old))} by {quote(repr(new))}; please report it"
            )

    def decode(pieces: Sequence[str]) -> tuple[pa.Array, np.ndarray]:
        single = [byte_piece(piece) if fallback else None for piece in pieces]
        for old, new in replacements:
            pieces = [piece.replace(old, new) for piece in pieces]
        values = [piece.encode() if byte is None else byte for piece, byte in zip(pieces, single, strict=True)]
        kinds = [Kind.TEXT.value if byte is None else Kind.BYTE.value for byte in single]
        return binary_array(values), np.array(kinds, np.uint8)

    return decode


def _implied_decoder(where: str, file: File) -> list[Step]:
    """The decoder that belongs to the pre-tokenizer, for files that have no decoder."""
    for step in _flatten(file.pre_tokenizer, "pretokenizers"):
        if step["type"] == "ByteLevel":
            return [step]
        if step["type"] == "Metaspace":
            return [step, *([{"type": "ByteFallback"}] if file.model.byte_fallback else [])]
    if file.model.type == "WordPiece":
        prefix = file.model.continuing_subword_prefix
        return [{"type": "WordPiece", "prefix": "##" if prefix is None else prefix, "cleanup": False}]
    raise VocabkitError(
        f"{where}: has no decoder, and its pre-tokenizer does not tell how pieces spell bytes; add a decoder to it"
    )


def _flatten(step: Step | None, key: str) -> list[Step]:
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step[key] for inner in _flatten(part, key)]
    return [step]


_CLEANUP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def _wordpiece(step: Step) -> Callable[[Sequence[str]], pa.Array]:
    """A bare piece starts a word, so it brings its space; `##x` continues one."""
    prefix, cleanup = step.get("prefix", "##"), step.get("cleanup", True)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix {prefix!r}")

    def to_bytes(piece: str) -> bytes:
        text = piece.removeprefix(prefix) if prefix and piece.startswith(prefix) else " " + piece
        for old, new in _CLEANUP if cleanup else ():
            text = text.replace(old, new)
        return text.encode()

    return lambda pieces: binary_array([to_bytes(piece) for piece in pieces])


def _wordpiece_notes(file: File) -> tuple[str, ...]:
    for step in _flatten(file.normalizer, "normalizers"):
        if step["type"] == "Lowercase" or step.get("lowercase"):
            return ("lower-cases text, so capital letters and accents are lost: its tokens match lower-case text only",)
    return ()
