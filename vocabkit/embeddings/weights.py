"""The files that models are kept in, except GGUF."""

from __future__ import annotations

from pathlib import Path

from vocabkit.embeddings.language_model import LanguageModel
from vocabkit.embeddings.shard_index import read_index
from vocabkit.embeddings.table import StoredRows
from vocabkit.embeddings.tensor_name import embedding_name
from vocabkit.errors import VocabkitError

_IN_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""What is looked for in a folder, first found is taken: the order of transformers."""
LORA_CONFIG = "adapter_config.json"
"""Of peft: a folder with it holds what was added to an LLM, and not the LLM."""
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".json")
"""Suffixes of the files in which embeddings are looked for."""


def weights_file(folder: Path) -> Path:
    """The weights of a model folder, or their index. Raises VocabkitError if there are none, or several, or only
    LoRA weights.
    """
    for name in _IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    if (folder / LORA_CONFIG).is_file():
        raise VocabkitError(f"{folder}: holds LoRA weights and no LLM; name the LLM that its {LORA_CONFIG} names")
    found = sorted(file for suffix in ("*.safetensors", "*.gguf") for file in folder.glob(suffix))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} weights files; name one of them" if found else f"none of {', '.join(_IN_FOLDER)}, *.gguf"
    raise VocabkitError(f"{folder}: not a model folder: {what}")


def open_weights(file: Path, model: LanguageModel) -> StoredRows:
    """The embedding table of `model` in a weights file, or in the one that an index says.

    Raises VocabkitError: missing or damaged files, no embedding table or several, one that is no matrix of floats.
    """
    name = None
    if file.name.endswith(".index.json"):
        shards = read_index(file)
        name = embedding_name(shards, model, str(file))
        file = file.parent / shards[name]
    if file.suffix == ".safetensors":
        from vocabkit.embeddings.safetensors_file import read_header, rows_at

        header = read_header(file)
        return rows_at(file, header.place_of(name or embedding_name(header.names, model, str(file))))
    if file.suffix in (".bin", ".pt", ".pth"):
        from vocabkit.embeddings.torch_file import read_tensors, rows_of

        tensors = read_tensors(file)
        return rows_of(tensors, name or embedding_name(tensors, model, str(file)), file)
    raise VocabkitError(
        f"{file}: not a weights file; expected .safetensors, .gguf, .bin, .pt or an .index.json of them"
    )
