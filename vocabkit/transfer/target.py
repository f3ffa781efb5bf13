"""From what people type after --to, to an LLM that an adapter can be moved to: its tokenizer and its embedding rows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.tokenizer.catalog import Resolved, catalog, resolve, without_name
from vocabkit.tokenizer.read import holds_tokenizer
from vocabkit.transfer.transfer import Target


def open_target(
    argument: str,
    *,
    weights: str | Path | None = None,
    has_option: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Target, Resolved]:
    """The target that `argument` names, and how its tokenizer was found.

    A model folder, a GGUF or a hub id holds both tokenizer and embedding table; for a model of the catalog the
    tokenizer is the shipped one, and the bytes of the embedding table are fetched from its hub repository.

    Args:
        weights: where to read the embedding table instead: a folder, a weights file, or a hub id.
        has_option: whether --weights is an option of the command, so that errors may name it.
        progress: called with (bytes done, bytes in total) while a table is downloaded.

    Raises:
        VocabkitError: nothing found, no weights known for it, an encoder, or a table of another width than the catalog
            says.
    """
    try:
        found = resolve(argument)
    except VocabkitError as error:
        raise VocabkitError(f"{error}{_apart(argument, weights) if has_option else ''}") from error
    table = open_embeddings(weights or _weights(argument, found, has_option=has_option), progress=progress)
    if table.encoder is not None:
        raise VocabkitError(
            f"{argument}: is an encoder ({quote(table.encoder)}), which reads text but can't go on with it; "
            "name an LLM that writes"
        )
    vocabulary = found.vocabulary
    if vocabulary.width is not None and vocabulary.width != table.width:
        raise VocabkitError(
            f"{argument}: its embeddings have width {vocabulary.width}, but {table.source} has {table.width}; "
            "give the weights of the same model"
        )
    return Target(vocabulary, table), found


def _apart(argument: str, weights: str | Path | None) -> str:
    """How to name tokenizer and weights apart, if `argument` is a folder of weights alone."""
    source = without_name(argument)
    folder = os.path.expanduser(source)  # noqa: PTH111 -- never raises
    if not os.path.isdir(folder) or holds_tokenizer(Path(folder)):  # noqa: PTH112
        return ""
    name = argument.removesuffix(source).removesuffix("=")
    shipped = name.lower() in catalog() and not Path(name).exists()
    tokenizer = name if shipped else f"{name}=TOKENIZER" if name else "TOKENIZER"
    return f"; take one from elsewhere: {shlex.join(['--to', tokenizer, '--weights', str(weights or folder)])}"


def _weights(argument: str, found: Resolved, *, has_option: bool) -> str | Path:
    name = without_name(argument)
    path = Path(name).expanduser()
    if path.is_dir() or found.file.suffix == ".gguf":
        return path
    if path.exists():
        advice = "add --weights with the model's folder, weights file or hub id" if has_option else "name its model"
        raise VocabkitError(f"{path}: is a tokenizer only; {advice}")
    entry = catalog().get(name.lower())
    if entry is None:
        return name
    if entry.width is None or entry.hub is None:
        models = [other.name for other in catalog().values() if other.snapshot == entry.snapshot and other.width]
        ways = [f"say which model: {' or '.join(models)}"] if models else []
        if has_option:
            ways += ["add --weights with a folder, weights file or hub id"]
        else:
            ways += [f"give it: {name}=FOLDER, or a GGUF or hub id"]
        raise VocabkitError(f"{quote(name)} names a tokenizer, not a model; {', or '.join(ways)}")
    return entry.hub
