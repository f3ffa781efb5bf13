"""load_tokenizer: a Vocabulary from a name, a path or a tokenizer object of another library."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer import tokenizer_json
from vocabkit.tokenizer.catalog import distinct_names, resolve, resolve_path
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.vocabulary import Vocabulary

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
            SentencePiece without tokens added to its file) or of tokenizers, read from memory; or a `Vocabulary`.
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
    if isinstance(tokenizer, type) or not callable(getattr(backend, "to_str", None)):
        file = getattr(tokenizer, "vocab_file", None)
        if isinstance(file, str | Path) and Path(file).is_file():
            return _from_slow(tokenizer, Path(file), name)
        raise TypeError(f"a tokenizer is {where if not isinstance(tokenizer, type) else repr(tokenizer)}; {_EXPECTED}")
    try:
        content = backend.to_str().encode()
    except Exception as error:  # the bare Exception of tokenizers, for steps that are written in Python
        raise VocabkitError(f"{where}: can't be written as a tokenizer.json ({quote(str(error), 120)})") from error
    special = dict(getattr(tokenizer, "special_tokens_map", {}))
    return tokenizer_json.parse(content, name, special, where=where, source=where)


def _from_slow(tokenizer: Any, file: Path, name: str) -> Vocabulary:
    vocabulary = read(file, name)
    if len(tokenizer) != len(vocabulary):
        raise VocabkitError(
            f"{type(tokenizer).__name__}: has {len(tokenizer)} tokens, but its file {file} has {len(vocabulary)}; "
            "give the folder with its tokenizer.json, or the fast tokenizer"
        )
    return vocabulary
