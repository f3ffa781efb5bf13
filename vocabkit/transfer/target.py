"""Target of a transfer: an LLM's tokenizer and the embedding table that its ids look up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.embeddings import EmbeddingTable, open_embeddings
from vocabkit.tokenizer.catalog import Resolved, catalog, resolve, without_name
from vocabkit.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Target:
    """The LLM that an adapter moves to."""

    vocabulary: Vocabulary
    embeddings: EmbeddingTable
    how: str = ""
    """How its tokenizer was found, in words."""


def open_target(argument: str, *, weights: str | Path | None = None, progress: Progress = no_progress) -> Target:
    """Open the LLM that `argument` names.

    A model folder, a GGUF or a hub id holds both tokenizer and embedding table. For a model of the catalog, the
    tokenizer is the shipped snapshot, and only the bytes of the embedding table are downloaded.

    Args:
        argument: a folder, GGUF, catalog model or hub id, optionally as NAME=any of these.
        weights: folder, weights file or hub id to read the embedding table from instead.
        progress: reports bytes while a table is downloaded.

    Raises:
        VocabkitError: nothing found, no known weights, an encoder-only model, or a table whose width is not the
            catalog's.
    """
    found = resolve(argument)
    table = open_embeddings(weights or _weights(argument, found), progress=progress)
    if table.encoder is not None:
        raise VocabkitError(f"{argument}: encoder-only model ({quote(table.encoder)}); pass a causal LLM")
    vocabulary = found.vocabulary
    if vocabulary.width is not None and vocabulary.width != table.width:
        raise VocabkitError(
            f"{argument}: its embeddings have width {vocabulary.width}, but {table.source} has {table.width}; "
            "give the weights of the same model"
        )
    return Target(vocabulary, table, found.how)


def _weights(argument: str, found: Resolved) -> str | Path:
    """Where the embedding table of `argument` is."""
    name = without_name(argument)
    path = Path(name).expanduser()
    if path.is_dir() or found.file.suffix == ".gguf":
        return path
    if path.exists():
        raise VocabkitError(f"{path}: a tokenizer without weights; name the model's folder, GGUF or hub id")
    entry = catalog().get(name.lower())
    if entry is None:
        return name
    if entry.width is None or entry.hub is None:
        models = [other.name for other in catalog().values() if other.snapshot == entry.snapshot and other.width]
        choice = f"say which model: {' or '.join(models)}, or " if models else ""
        raise VocabkitError(
            f"{quote(name)} names a tokenizer, not a model; {choice}give it: {name}=FOLDER, or a GGUF or hub id"
        )
    return entry.hub
