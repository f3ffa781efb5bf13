"""tokenizer.json of Hugging Face `tokenizers`: byte-level BPE, SentencePiece-style BPE and Unigram, WordPiece.

How pieces spell bytes is decided from the file's own decoder, or from its pre-tokenizer where it has no decoder;
never from a class name and never from how pieces look. The rules of each decoder are those of `tokenizers`
(tokenizers/src/decoders).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.records import decode_json, parse_json
from vocabkit.tokenizer.decoder import Decoded, Step, decode_pieces
from vocabkit.tokenizer.library import refusing_failures, text_steps
from vocabkit.tokenizer.special_tokens import (
    Added,
    Declarations,
    added_ids,
    declarations,
    declared_ids,
    read_declarations,
    reserved_ids,
    roles,
    special_kind,
)
from vocabkit.tokenizer.vocabulary import Kind, Precedence, Vocabulary, check_highest_id, make_vocabulary


class AddedToken(msgspec.Struct):
    """An entry of "added_tokens"."""

    id: int
    content: str
    special: bool = False
    normalized: bool = False
    """Whether it is found in normalised text, spelled in its own normal form."""


class Model(msgspec.Struct):
    """The fields of "model" that define tokens; merges are skipped, which halves time and memory."""

    vocab: dict[str, int] | list[tuple[str, float]]
    """A Unigram vocabulary is a list of [piece, score]."""
    type: str | None = None
    unk_token: str | None = None
    unk_id: int | None = None
    byte_fallback: bool | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class File(msgspec.Struct):
    """The fields of a tokenizer.json that define tokens."""

    model: Model
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read a tokenizer.json, with the declarations of the files beside it (see `declarations`).

    Raises VocabkitError: not JSON, not a tokenizer, ids out of range or repeated, or a decoder whose effect on a
    single token is unknown.
    """
    file = decode_json(path, File, "a tokenizer.json")
    found = vocabulary_of(str(path), file, name or path.parent.resolve().name, read_declarations(path.parent))
    # the file is read again to cut text, rather than kept in memory
    return dataclasses.replace(found, source=path.name, segmentation=path)


def parse(content: bytes, name: str, special: Mapping[str, Any], *, where: str, source: str) -> Vocabulary:
    """`read` of the bytes of a tokenizer.json, without an embedding table.

    Args:
        special: spellings of role fields as in tokenizer_config.json, such as `bos_token`.
        where: name of the content in errors.
        source: recorded as the vocabulary's source.
    """
    file = parse_json(content, where, File, "a tokenizer.json")
    found = vocabulary_of(where, file, name, declarations(special))
    return dataclasses.replace(found, source=source, segmentation=content)


def vocabulary_of(where: str, file: File, name: str, declared: Declarations) -> Vocabulary:
    """Return the vocabulary of a parsed tokenizer.json. Raises as `read`, about `where`."""
    spellings = _spellings(where, file.model)
    own, pieces = len(spellings), _piece_ids(file.model)
    added, notes = _add_tokens(file, spellings, pieces, declared)
    unk = _unknown_piece(file.model, spellings)
    special = {i for i, token in added.items() if token.special} | _declared_special(spellings, pieces, added, declared)
    special |= set() if unk is None else {unk}
    normal = _normal_forms(where, file, {i: token for i, token in added.items() if i not in special})
    decoded, more = _decode(where, file, spellings, normal)
    tokens, kinds = decoded.finish()

    named = {i: spellings[i] or "" for i in sorted(special)}
    role_ids = ({} if unk is None else {"unk": unk}) | declared_ids(named, declared)
    for token_id, spelling in named.items():
        kinds[token_id] = Kind.SPECIAL if token_id in role_ids.values() else special_kind(spelling)
    unused = {i: spellings[i] or "" for i in reserved_ids(spellings) if kinds[i] != Kind.SPECIAL}
    kinds[list(unused)] = Kind.UNUSED

    literal = named | unused
    if decoded.tokens is not None:  # text that is cut out is not spelled in the byte alphabet
        literal |= {i: normal.get(i, token.content) for i, token in added.items() if i >= own or not token.is_piece}
    tokens = _with_literals(tokens, spellings, literal)
    unreached = decoded.unreached | _earlier_duplicates(file.model, pieces) | _unseen(where, file, spellings, decoded)
    precedence = np.full(len(kinds), Precedence.PIECE, np.uint8)
    precedence[sorted(decoded.byte_ids)] = Precedence.BYTE
    precedence[sorted(unreached)] = Precedence.UNREACHED
    for token_id, token in added.items():
        precedence[token_id] = _precedence_of_added(token, tokens[token_id].as_py(), is_normal=token_id in normal)
    return make_vocabulary(
        name=name,
        source=where,
        tokens=tokens,
        kinds=kinds,
        precedence=precedence,
        roles=roles(named, kinds, role_ids),
        embedding_rows=declared.rows,
        width=declared.width,
        notes=(*notes, *more),
    )


def _spellings(where: str, model: Model) -> list[str | None]:
    """Return the spellings of the model's own pieces by id."""
    vocab = model.vocab
    pieces = [piece for piece, _ in vocab] if isinstance(vocab, list) else list(vocab)
    ids = list(range(len(vocab))) if isinstance(vocab, list) else list(vocab.values())
    if ids == list(range(len(ids))):  # as in most files, which saves passes over all tokens
        return list(pieces)
    lowest, top = min(ids, default=0), max(ids, default=-1)
    if lowest < 0:
        raise VocabkitError(f"{where}: has id {quote(str(lowest))}; ids are counted from 0")
    check_highest_id(where, top, len(ids))
    spellings: list[str | None] = [None] * (top + 1)
    for spelling, token_id in zip(pieces, ids, strict=True):
        if spellings[token_id] is not None:
            both = f"{quote(spellings[token_id] or '')} and {quote(spelling)}"
            raise VocabkitError(f"{where}: id {token_id} belongs to two pieces, {both}")
        spellings[token_id] = spelling
    return spellings


class _Added(NamedTuple):
    """An added token under the id that the library gives it."""

    content: str
    special: bool
    normalized: bool
    is_piece: bool
    """Whether the model has it as a piece, under this id."""


def _add_tokens(
    file: File, spellings: list[str | None], pieces: Mapping[str, int], declared: Declarations
) -> tuple[dict[int, _Added], tuple[str, ...]]:
    """Put the added tokens into `spellings`, in place. Return them by id, and notes.

    Ids are those that `tokenizers` assigns, whatever the file says.
    """
    listed: dict[str, Added] = {}
    for token in (
        *(Added(each.id, each.content, each.special, each.normalized) for each in file.added_tokens),
        *declared.added,
    ):
        known = listed.setdefault(token.content, token)
        if token.special is not None:  # the config, which comes last, decides
            listed[token.content] = dataclasses.replace(known, special=token.special)
    listed.pop("", None)  # the library ignores it
    told = [(token.id, token.content) for token in listed.values()]
    ids, notes = added_ids(told, declared, pieces, len(file.model.vocab))
    added: dict[int, _Added] = {}
    for content, token_id in ids.items():
        token = listed.get(content, Added(token_id, content, special=True))
        added[token_id] = _Added(content, bool(token.special), token.normalized, is_piece=content in pieces)
        spellings.extend([None] * (token_id + 1 - len(spellings)))
        spellings[token_id] = content
    return added, notes


def _normal_forms(where: str, file: File, text: Mapping[int, _Added]) -> dict[int, str]:
    """Map ids of added tokens that are found in normalised text to their normal form, which the library also decodes:
    `COVID` to `covid` where the normalizer lower-cases, a line break to `▁` and a line break where it puts `▁` first.
    """
    normalized = {i: token.content for i, token in text.items() if token.normalized and not token.is_piece}
    if not normalized or file.normalizer is None:
        return {}
    with _refusing(where, "normalizer"), refusing_failures(f"{where}: its normalizer fails"):
        normalizer = text_steps(file.normalizer, None).normalizer
        return {i: normalizer.normalize_str(content) for i, content in normalized.items()}


def _unseen(where: str, file: File, spellings: Sequence[str | None], decoded: Decoded) -> set[int]:
    """Return pieces that hold a space where the model never gets to see one, or a `▁` where it never sees that."""
    if decoded.tokens is not None:
        return set()
    with _refusing(where, "normalizer or pre-tokenizer"), refusing_failures(f"{where}: its normalizer fails"):
        steps = text_steps(file.normalizer, file.pre_tokenizer)
        text = steps.normalizer.normalize_str("a b") if steps.normalizer else "a b"
        words = steps.pre_tokenizer.pre_tokenize_str(text) if steps.pre_tokenizer else [(text, None)]
    unseen = {" ", "▁"} - {character for word, _ in words for character in word}
    return {i for character in unseen for i, piece in enumerate(spellings) if piece and character in piece}


def _precedence_of_added(token: _Added, value: bytes | None, *, is_normal: bool) -> Precedence:
    """An added token goes first if it is cut out of text that has its bytes. Otherwise it is reached as a piece or not
    at all: `ĠĠ` is cut out of text that says so, but stands for two spaces.
    """
    if is_normal or value is None or value.removeprefix(b" ") == token.content.encode().removeprefix(b" "):
        return Precedence.ADDED
    return Precedence.PIECE if token.is_piece else Precedence.UNREACHED


def _with_literals(tokens: pa.Array, spellings: Sequence[str | None], literals: Mapping[int, str]) -> pa.Array:
    """Replace `literals` in `tokens` by their spelling, and set ids without a token to null."""
    changed = {i: spelling.encode() for i, spelling in literals.items() if tokens[i].as_py() != spelling.encode()}
    holes = [i for i, spelling in enumerate(spellings) if spelling is None] if None in spellings else []
    if not changed and not holes:
        return tokens
    values = tokens.to_pylist()
    for token_id, literal in changed.items():
        values[token_id] = literal
    for token_id in holes:
        values[token_id] = None
    return binary_array(values)


def _unknown_piece(model: Model, spellings: Sequence[str | None]) -> int | None:
    if model.unk_id is not None:
        return model.unk_id if 0 <= model.unk_id < len(spellings) and spellings[model.unk_id] is not None else None
    return spellings.index(model.unk_token) if model.unk_token and model.unk_token in spellings else None


def _declared_special(
    spellings: Sequence[str | None], pieces: Mapping[str, int], added: Mapping[int, _Added], declared: Declarations
) -> set[int]:
    ids = {token_id for each in declared.role_ids.values() for token_id in each if token_id < len(spellings)}
    ids |= {pieces[spelling] for spelling in declared.special if spelling in pieces}
    ids |= {i for i, token in added.items() if token.content in declared.special}
    return {i for i in ids if declared.is_special(i, spellings[i] or "")}


def _piece_ids(model: Model) -> Mapping[str, int]:
    """Map each piece to its id; of duplicates in a Unigram vocabulary, to the last."""
    return model.vocab if isinstance(model.vocab, dict) else {piece: i for i, (piece, _) in enumerate(model.vocab)}


def _earlier_duplicates(model: Model, pieces: Mapping[str, int]) -> set[int]:
    """Return ids of a Unigram vocabulary whose piece is repeated later: encode gives the last one."""
    if not isinstance(model.vocab, list) or len(pieces) == len(model.vocab):
        return set()
    return {i for i, (piece, _) in enumerate(model.vocab) if pieces[piece] != i}


# ---- decoders ----------------------------------------------------------------------------------------------------


def _decode(
    where: str, file: File, spellings: Sequence[str | None], normal: Mapping[int, str]
) -> tuple[Decoded, tuple[str, ...]]:
    """Decode the pieces, of which `normal` has other spellings; also return notes for the user."""
    pieces = [spelling or "" for spelling in spellings]
    for token_id, spelling in normal.items():
        pieces[token_id] = spelling
    with _refusing(where, "decoder"):
        steps = _flatten(file.decoder, "decoders") if file.decoder is not None else _implied_decoder(where, file)
        decoded = decode_pieces(pieces, steps, file.model.end_of_word_suffix)
        return decoded, _notes(file, [step["type"] for step in steps])


@contextmanager
def _refusing(where: str, part: str) -> Iterator[None]:
    """Turn what a damaged `part` of the file raises into a VocabkitError about `where`."""
    try:
        yield
    except VocabkitError as error:
        raise error if str(error).startswith(where) else VocabkitError(f"{where}: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise VocabkitError(f"{where}: its {part} isn't as `tokenizers` writes it ({quote(repr(error))})") from error


def _implied_decoder(where: str, file: File) -> list[Step]:
    """Infer the decoder from the pre-tokenizer or the model, for files without one."""
    for step in _flatten(file.pre_tokenizer, "pretokenizers"):
        if step["type"] == "ByteLevel":
            return [step]
        if step["type"] == "Metaspace":
            return [step, *([{"type": "ByteFallback"}] if file.model.byte_fallback else [])]
    if file.model.type == "WordPiece":
        prefix = file.model.continuing_subword_prefix
        return [{"type": "WordPiece", "prefix": "##" if prefix is None else prefix, "cleanup": False}]
    if file.model.type == "WordLevel":
        return []
    raise VocabkitError(
        f"{where}: has no decoder, and its pre-tokenizer does not tell how pieces spell bytes; add a decoder"
    )


def _flatten(step: Step | None, key: str) -> list[Step]:
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step[key] for inner in _flatten(part, key)]
    return [step]


def _notes(file: File, decoder: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if file.model.type == "WordLevel" and not decoder:
        notes.append("splits text at spaces, which none of its tokens holds: its tokens match bare words only")
    lowers = [
        step
        for step in _flatten(file.normalizer, "normalizers")
        if step["type"] == "Lowercase" or step.get("lowercase")
    ]
    if lowers:
        notes.append("lower-cases text, so capital letters and accents are lost: its tokens match lower-case text only")
    return tuple(notes)
