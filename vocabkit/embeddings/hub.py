"""Embedding tables of hub repositories: their bytes alone are downloaded, once, into the Hugging Face cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import cached_assets_path, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from vocabkit.embeddings.byte_ranges import RemoteFile, TransportError
from vocabkit.embeddings.download import download_matrix, is_whole
from vocabkit.embeddings.language_model import LanguageModel, read_config
from vocabkit.embeddings.safetensors_file import PREFIX, Header, header_length, parse_header, read_header, rows_at
from vocabkit.embeddings.shard_index import read_index
from vocabkit.embeddings.table import StoredRows
from vocabkit.embeddings.tensor_name import embedding_name
from vocabkit.embeddings.weights import open_weights
from vocabkit.errors import VocabkitError, quote
from vocabkit.hub import HubId, what_the_hub_said, why_refused

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WEIGHTS = (_SINGLE, _INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")


def open_hub(where: HubId, progress: Callable[[int, int], None] | None) -> tuple[LanguageModel, StoredRows, str]:
    """The embedding table of a hub repository, and what was read.

    From the weights in the Hugging Face cache if they are there; else its bytes alone, from vocabkit's part of that
    cache (`HF_ASSETS_CACHE`), where they are downloaded to.

    Raises VocabkitError: no such repository or revision, no access, no safetensors weights in it, offline and not in
    the cache, or a connection that keeps breaking off.
    """
    repository, revision = where
    try:
        config = Path(hf_hub_download(repository, "config.json", revision=revision))
        model, commit = read_config(config), config.parent.name
        source = f"{repository}@{commit[:12]}"
        weights = _cached_weights(repository, commit, model)
        if weights is not None:
            return model, open_weights(weights, model), f"{source}/{weights.name}"
        folder = cached_assets_path("vocabkit", namespace=repository, subfolder=commit)
        return model, _downloaded(repository, commit, model, folder, progress), source
    except VocabkitError:
        raise
    except (OSError, ValueError, TransportError) as error:
        named = repository if revision is None else f"{repository}@{revision}"
        raise VocabkitError(f"{named}: {_reason(repository, what_the_hub_said(error))}") from error


def _cached_weights(repository: str, commit: str, model: LanguageModel) -> Path | None:
    """The weights file, or its index, if the file with the embedding table is in the cache."""

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(repository, name, revision=commit)
        return Path(found) if isinstance(found, str) else None

    for file in filter(None, map(cached, _WEIGHTS)):
        if file.suffix != ".json":
            return file
        shards = read_index(file)
        if cached(shards[embedding_name(shards, model, str(file))]) is not None:
            return file
    return None


def _downloaded(
    repository: str, commit: str, model: LanguageModel, folder: Path, progress: Callable[[int, int], None] | None
) -> StoredRows:
    table = folder / "embeddings.safetensors"
    if not is_whole(table):
        file, name = _remote(repository, commit, model)
        header = _remote_header(file)
        name = name or embedding_name(header.names, model, str(file))
        download_matrix(file, name, header.place_of(name), table, progress)
    header = read_header(table)
    return rows_at(table, header.place_of(header.names[0]))


def _remote(repository: str, commit: str, model: LanguageModel) -> tuple[RemoteFile, str | None]:
    """The file that holds the table, and the table's name if an index tells."""
    try:
        index = Path(hf_hub_download(repository, _INDEX, revision=commit))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return RemoteFile(repository, commit, _SINGLE), None
    shards = read_index(index)
    name = embedding_name(shards, model, f"{repository}/{_INDEX}")
    return RemoteFile(repository, commit, shards[name]), name


def _remote_header(file: RemoteFile) -> Header:
    length = header_length(file.read(0, PREFIX), str(file))
    return parse_header(file.read(PREFIX, PREFIX + length), str(file))


def _reason(repository: str, error: Exception) -> str:
    match error:
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return (
                "can't reach the Hugging Face hub and it is not in the cache; check the network and HF_HUB_OFFLINE, or "
                "give the model's folder"
            )
        case EntryNotFoundError():
            return (
                "no config.json with model.safetensors in this repository; download what it has (`hf download`) and "
                "give the weights file"
            )
    if refusal := why_refused(repository, error):
        return refusal
    if isinstance(error, OSError):
        return f"can't keep the download ({error.strerror or quote(str(error), 120)})"
    return quote((str(error) or type(error).__name__).strip().splitlines()[0], 160)
