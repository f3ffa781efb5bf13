"""What is fuzzed: each reader of files that may come from anyone, used as the commands use it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""A folder of sound files for each reader, made by make_corpus.py."""
FOUND = Path(__file__).parent / "found"
"""Files READER-*, edited by the fuzzer until something went wrong that is mended since."""


@dataclass(frozen=True)
class Reader:
    """A way to read a file, down to the last value in it."""

    read: Callable[[Path], object]
    """Returns, or raises VocabkitError."""
    file: str
    """Name of the file: readers go by the ending, and by what stands beside it."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """What stands beside it: name -> file of the corpus."""

    def prepare(self, folder: Path) -> Path:
        """Where to put an input, in a folder that then has what is to stand beside it."""
        folder.mkdir()
        for name, source in self.beside.items():
            shutil.copyfile(CORPUS / source, folder / name)
        return folder / self.file


def seeds(reader: str) -> list[bytes]:
    """The sound files of a reader."""
    return [file.read_bytes() for file in sorted((CORPUS / reader).iterdir())]


def findings(reader: str) -> list[bytes]:
    """The files with which something went wrong in a reader once."""
    return [file.read_bytes() for file in sorted(FOUND.glob(f"{reader}-*"))]


def _tokenizer(path: Path) -> None:
    from vocabkit.tokenizer.read import read
    from vocabkit.tokenizer.segmentation import encode_batch, to_tokenizers

    vocabulary = read(path)
    assert len(vocabulary.fingerprint) == 71
    if vocabulary.segmentation is not None:
        encode_batch(to_tokenizers(vocabulary, mid_text=True), ["a cat", "é\n\x00 <s>"], "x")


def _rank_file(path: Path) -> None:
    from vocabkit.tokenizer import tiktoken as tiktoken_bpe

    tiktoken_bpe.read(path)


def _gguf(path: Path) -> None:
    from vocabkit.tokenizer import gguf

    gguf.read_tensor_table(path)
    _tokenizer(path)


def _shared(path: Path) -> None:
    from vocabkit.shared.shared_vocabulary import open_shared

    shared = open_shared(path)
    for info in shared.tokenizers:
        shared.ids_for(info.name)


def _index_map(path: Path) -> None:
    from vocabkit.shared.maps import read_map

    read_map(path)


def _llava(path: Path) -> None:
    from vocabkit.data.llava import read_llava

    for _ in read_llava(path):
        pass


def _shard_index(path: Path) -> None:
    from vocabkit.llm.weight_files import read_index

    read_index(path)


def _recipe(path: Path) -> None:
    from vocabkit.train.recipe import read_recipe

    read_recipe(path)


def _adapter(path: Path) -> None:
    from vocabkit.adapter.model import load_adapter

    load_adapter(str(path))


def _projector_weights(path: Path) -> None:
    from vocabkit.errors import VocabkitError
    from vocabkit.llm.weight_files import read_tensors, rows_of

    tensors = read_tensors(path)
    for name in tensors:
        with suppress(VocabkitError):
            _first_row(rows_of(tensors, name, path))


def _safetensors(path: Path) -> None:
    from vocabkit.errors import VocabkitError
    from vocabkit.llm.weight_files import read_header, rows_at
    from vocabkit.vision.feature_files import read_features

    header = read_header(path)
    for name in header.names:
        with suppress(VocabkitError):
            _first_row(rows_at(path, header.place_of(name)))
    with suppress(VocabkitError):
        read_features(path)


def _gguf_weights(path: Path) -> None:
    from vocabkit.llm.gguf_rows import open_gguf

    _, rows = open_gguf(path)
    _first_row(rows)


def _first_row(rows: object) -> None:
    import numpy as np
    import torch

    into = torch.empty(1, rows.width)  # type: ignore[attr-defined]
    rows.read_into(np.array([0]), into, np.array([0]))  # type: ignore[attr-defined]


def _features(path: Path) -> None:
    """A shard beside whatever index it was given."""
    from vocabkit.vision.features import open_features

    features = open_features(path.parent)
    for key in features.keys:
        features[key]


SHARD = f"{'0' * 32}.safetensors"
READERS: Mapping[str, Reader] = {
    "tokenizer": Reader(_tokenizer, "tokenizer.json"),
    "tiktoken": Reader(_rank_file, "ranks.tiktoken"),
    "sentencepiece": Reader(_tokenizer, "tokenizer.model"),
    "tekken": Reader(_tokenizer, "tekken.json"),
    "gguf": Reader(_gguf, "model.gguf"),
    "snapshot": Reader(_tokenizer, "snapshot.arrow"),
    "shared": Reader(_shared, "shared.arrow"),
    "index-map": Reader(_index_map, "map.json"),
    "llava": Reader(_llava, "data.json"),
    "shard-index": Reader(_shard_index, "model.safetensors.index.json"),
    "recipe": Reader(_recipe, "recipe.toml"),
    "adapter": Reader(_adapter, "adapter.pt"),
    "torch": Reader(_projector_weights, "mm_projector.bin"),
    "safetensors": Reader(_safetensors, "features.safetensors"),
    "gguf-weights": Reader(_gguf_weights, "model.gguf"),
    "features": Reader(_features, "index.json", {SHARD: "feature-shard/clip"}),
    "feature-shard": Reader(_features, SHARD, {"index.json": "features/clip"}),
}
