"""The weights of the models that go into an export, memory-mapped, a file at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vocabkit.embeddings.shard_index import read_index
from vocabkit.embeddings.torch_file import read_tensors
from vocabkit.embeddings.weights import weights_file
from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a model folder, in the order of their names: safetensors, or torch.save's.

    Raises VocabkitError: none, GGUF, or an index that names a file that is missing or elsewhere.
    """
    file = weights_file(folder)
    if file.suffix == ".gguf":
        raise VocabkitError(f"{folder}: holds a GGUF; name the file itself: {file}")
    if not file.name.endswith(".index.json"):
        return [file]
    files = [folder / name for name in sorted(set(read_index(file).values()))]
    if missing := [shard.name for shard in files if not shard.is_file()]:
        raise VocabkitError(f"{folder}: {missing[0]} is missing, which {file.name} names; download the model again")
    return files


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Name -> tensor. Raises VocabkitError: damaged, or a pickle with more than tensors."""
    if file.suffix != ".safetensors":
        return read_tensors(file)
    with reading(file):
        try:
            return load_file(file)
        except SafetensorError as error:
            raise VocabkitError(f"{file}: damaged ({quote(str(error), 80)}); download it again") from error
