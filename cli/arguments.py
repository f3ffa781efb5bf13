"""Arguments and options that several commands share, and how a tokenizer argument becomes a vocabulary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vocabkit.vocabulary import Vocabulary

TOKENIZER = (
    "a folder, a tokenizer file, a GGUF, a catalog name (see `vocabkit catalog`), a hub id, or NAME=any of these"
)
Tokenizers = Annotated[list[str], typer.Argument(help=f"Two or more; each {TOKENIZER}.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Field = Annotated[
    str | None, typer.Option(help="Field or column of the corpus that holds the text.", show_default=False)
]
Corpus = Annotated[
    list[Path] | None,
    typer.Option(
        help="Caption corpus: text, JSONL, LLaVA JSON, Parquet (.gz and .zst too), or a folder; may be repeated.",
        show_default=False,
    ),
]


def resolve_all(arguments: Sequence[str]) -> list[Vocabulary]:
    """The vocabularies that `arguments` name; what was used for each goes to stderr."""
    from vocabkit.catalog import resolve

    vocabularies = []
    for argument in arguments:
        found = resolve(argument)
        print(f"{argument}: {len(found.vocabulary):,} ids, {found.how}", file=sys.stderr)
        vocabularies.append(found.vocabulary)
    return vocabularies


def named_paths(arguments: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping. Raises VocabkitError on one without a name or a name given twice."""
    from vocabkit.errors import VocabkitError, quote

    pairs: dict[str, str] = {}
    for argument in arguments or ():
        name, separator, value = argument.partition("=")
        if not (name and separator and value) or name in pairs:
            problem = "is given twice" if name in pairs else "is not NAME=VALUE"
            raise VocabkitError(f"{option} {quote(argument)} {problem}")
        pairs[name] = value
    return pairs
