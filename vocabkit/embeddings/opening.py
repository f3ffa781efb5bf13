"""From what people name to its embedding table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vocabkit.embeddings.language_model import LanguageModel, from_gguf, read_config
from vocabkit.embeddings.scaling import scale_of
from vocabkit.embeddings.table import EmbeddingTable, StoredRows
from vocabkit.embeddings.weights import WEIGHTS, open_weights, weights_file
from vocabkit.errors import VocabkitError, quote
from vocabkit.hub import hub_id


def open_embeddings(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddingTable:
    """The embedding table of an LLM. Reads headers only; of a hub repository it downloads the table's bytes, once.

    Args:
        source: a model folder, a file (`.safetensors`, `.gguf`, `.bin` or `.pt` of torch.save, or the `.index.json` of
            several), or a hub id `owner/name` or `owner/name@revision`. A path that exists comes first. All but GGUF
            need the model's config.json beside them.
        dtype: in which the model runs, if not in its own (that of config.json, float32 for a GGUF).
        progress: called with (bytes done, bytes in total) during a download.

    Raises:
        VocabkitError: nothing there, damaged, no embedding table in it or several, quantised in an unknown way, or a
            family whose way of scaling embeddings is not known.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _table(*_open_local(path), dtype)
    found = hub_id(str(source))
    if found is None or isinstance(source, Path) or path.suffix in WEIGHTS:
        raise VocabkitError(f"{quote(str(source), 200)} is no folder, no weights file and no hub id (owner/name)")
    from vocabkit.embeddings.hub import open_hub

    return _table(*open_hub(found, progress), dtype)


def _table(model: LanguageModel, stored: StoredRows, source: str, dtype: torch.dtype | None) -> EmbeddingTable:
    encoder = model.family if model.is_encoder else None
    return EmbeddingTable(source, dtype or model.dtype or stored.dtype, stored, scale_of(model, stored.width), encoder)


def _open_local(path: Path) -> tuple[LanguageModel, StoredRows, str]:
    file = weights_file(path) if path.is_dir() else path
    source = f"{file.parent.resolve().name}/{file.name}"
    if file.suffix == ".gguf":
        from vocabkit.embeddings.gguf_file import open_gguf

        metadata, rows = open_gguf(file)
        return from_gguf(str(file), metadata), rows, source
    model = read_config(file.parent / "config.json")
    return model, open_weights(file, model), source
