"""load_tokenizer: a Vocabulary from a name, a path or a tokenizer object of another library."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer import tokenizer_json
from vocabkit.tokenizer.catalog import distinct_names, resolve, resolve_path
from vocabkit.tokenizer.decoder import decode_pieces
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.special_tokens import declarations, declared_ids, reserved_ids, roles, special_kind
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, check_highest_id, make_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    class FastTokenizer(Protocol):
        """A fast tokenizer of transformers, which is not imported here."""

        @property
        def backend_tokenizer(self) -> Tokenizer:
            """The tokenizer that does the work."""

    class SlowTokenizer(Protocol):
        """A SentencePiece tokenizer of transformers."""

        vocab_file: Any

    AnyTokenizer: TypeAlias = str | Path | Vocabulary | Tokenizer | FastTokenizer | SlowTokenizer
    """What every function of the library takes as a tokenizer."""

_EXPECTED = (
    "expected a name, a path, a Vocabulary, or a tokenizer of transformers or tokenizers, "
    "such as AutoTokenizer.from_pretrained(...)"
)


def load_tokenizer(tokenizer: AnyTokenizer, name: str | None = None) -> Vocabulary:
    """Return the vocabulary of a tokenizer.

    Args:
        tokenizer: a string as on the command line: a path, a name of the catalog, a hub id (`owner/name` or
            `owner/name@revision`), or `NAME=` and one of these; a `Path`; a live tokenizer of transformers (fast, or
            SentencePiece) or of tokenizers, read from memory; or a `Vocabulary`.
        name: what to call it. Default: the name found with it, such as the catalog name, the name of the folder, or
            `name_or_path` of a live tokenizer.

    Raises:
        VocabkitError: not found, or it can't be read.
        TypeError: of another type.
    """
    vocabulary, _ = _with_folders(tokenizer)
    return vocabulary if name is None else dataclasses.replace(vocabulary, name=name)


def load_tokenizers(tokenizers: Iterable[AnyTokenizer]) -> list[Vocabulary]:
    """`load_tokenizer` of each; files of one name in different folders get names that differ (see `distinct_names`).

    Raises TypeError if `tokenizers` is a single one.
    """
    if isinstance(tokenizers, str | Path | Vocabulary) or not isinstance(tokenizers, Iterable):
        raise TypeError(f"`tokenizers` is {type(tokenizers).__name__}; expected a list of tokenizers")
    loaded = [_with_folders(tokenizer) for tokenizer in tokenizers]
    names = distinct_names([vocabulary.name for vocabulary, _ in loaded], [above for _, above in loaded])
    return [
        vocabulary if vocabulary.name == name else dataclasses.replace(vocabulary, name=name)
        for (vocabulary, _), name in zip(loaded, names, strict=True)
    ]


def _with_folders(tokenizer: AnyTokenizer) -> tuple[Vocabulary, Sequence[str]]:
    """The vocabulary, and the names of the folders above its file, nearest first."""
    if isinstance(tokenizer, Vocabulary):
        return tokenizer, ()
    if isinstance(tokenizer, str | Path):
        found = resolve(tokenizer) if isinstance(tokenizer, str) else resolve_path(tokenizer)
        return found.vocabulary, found.above
    return _from_object(tokenizer), ()


def _from_object(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a live tokenizer, told by what it can do: neither library is imported to ask for a type."""
    where = type(tokenizer).__name__
    name = Path(str(getattr(tokenizer, "name_or_path", ""))).name or "tokenizer"
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(tokenizer, type):
        raise TypeError(f"a tokenizer is {tokenizer!r}; {_EXPECTED}")
    if not callable(getattr(backend, "to_str", None)):
        return _from_slow(tokenizer, where, name)
    try:
        content = backend.to_str().encode()
    except Exception as error:  # the bare Exception of tokenizers, for steps that are written in Python
        raise VocabkitError(f"{where}: can't be written as a tokenizer.json ({quote(str(error), 120)})") from error
    return tokenizer_json.parse(content, name, _special(tokenizer), where=where, source=where)


def _special(tokenizer: Any) -> dict[str, Any]:
    """Special tokens of a tokenizer of transformers, as in a tokenizer_config.json."""
    every = list(getattr(tokenizer, "all_special_tokens", ()))
    return {**getattr(tokenizer, "special_tokens_map", {}), "additional_special_tokens": every}


def _from_slow(tokenizer: Any, where: str, name: str) -> Vocabulary:
    """The vocabulary of a tokenizer that is written in Python."""
    file = getattr(tokenizer, "vocab_file", None)
    path = Path(file) if isinstance(file, str | Path) and Path(file).is_file() else None
    if any(hasattr(tokenizer, attribute) for attribute in ("sp_model", "spm_source")):
        return _from_spellings(tokenizer, where, name, path)
    if path is None:
        if not callable(getattr(tokenizer, "get_vocab", None)):
            raise TypeError(f"a tokenizer is {where}; {_EXPECTED}")
        raise VocabkitError(f"{where}: only its class knows how its tokens spell text; give a fast tokenizer")
    vocabulary = read(path, name)
    if len(tokenizer) != len(vocabulary):
        raise VocabkitError(
            f"{where}: has {len(tokenizer)} tokens, but its file {file} has {len(vocabulary)}; "
            "give the folder with its tokenizer.json, or the fast tokenizer"
        )
    return vocabulary


def _from_spellings(tokenizer: Any, where: str, name: str, path: Path | None) -> Vocabulary:
    """The vocabulary of a SentencePiece tokenizer, whose class may number pieces in an order of its own."""
    ids: dict[str, int] = tokenizer.get_vocab()
    check_highest_id(where, max(ids.values(), default=0), len(ids))
    spelled: list[str | None] = [None] * (max(ids.values(), default=-1) + 1)
    for piece, token_id in ids.items():
        spelled[token_id] = piece
    decoded = decode_pieces([piece or "" for piece in spelled], _SENTENCEPIECE)
    tokens, kinds = decoded.finish()
    declared = declarations(_special(tokenizer))
    named = {i: piece for i, piece in enumerate(spelled) if piece and declared.is_special(i, piece)}
    for token_id, piece in named.items():
        kinds[token_id] = special_kind(piece)
    values = [None if piece is None else value for piece, value in zip(spelled, tokens.to_pylist(), strict=True)]
    for token_id, piece in [*named.items(), *((i, spelled[i] or "") for i in reserved_ids(spelled))]:
        values[token_id] = piece.encode()
        kinds[token_id] = Kind.SPECIAL if kinds[token_id] == Kind.SPECIAL else Kind.UNUSED
    found = make_vocabulary(
        name=name,
        source=where,
        tokens=values,
        kinds=kinds,
        roles=roles(named, kinds, declared_ids(named, declared)),
    )
    return _with_segmentation(found, path)


_SENTENCEPIECE = (
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
)


def _with_segmentation(vocabulary: Vocabulary, path: Path | None) -> Vocabulary:
    """How text is cut, and canonical ids, out of the model file if it numbers the same tokens."""
    with suppress(VocabkitError):
        if path is not None and (own := read(path)).tokens.equals(vocabulary.tokens):
            return dataclasses.replace(vocabulary, canonical=own.canonical, segmentation=own.segmentation)
    return vocabulary
