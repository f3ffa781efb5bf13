"""Rows of equal length in a file, each run of neighbours read straight to where it belongs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from vocabkit.adapter.tensors import read_torch
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json
from vocabkit.llm.config import LanguageModel
from vocabkit.tokenizer.gguf import EMBEDDING, read_tensor_table


class StoredRows(Protocol):
    """A matrix in a file, of which rows can be read."""

    @property
    def num_rows(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers once read."""

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        """Write row ids[i] to into[places[i]], in the dtype of `into`.

        Args:
            ids: (n,) int64, n > 0, each below `num_rows`, ascending; they may repeat.
            into: (N, D), contiguous.
            places: (n,) int64 rows of it, in any order.
        """


@dataclass(frozen=True)
class ByteRows:
    """A matrix of bytes inside a file."""

    path: Path
    start: int
    """Where its first row starts in the file."""
    count: int
    size: int
    """Bytes of a row."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """(n, size) uint8: these rows. See `read_into`."""
        rows = np.empty((len(ids), self.size), np.uint8)
        self.read_into(ids, rows, np.arange(len(ids)))
        return rows

    def read_into(self, ids: np.ndarray, into: np.ndarray, places: np.ndarray) -> None:
        """Read row ids[i] straight into into[places[i]], and not a byte more of the file.

        Args:
            ids: (n,) ascending, below `count`; they may repeat.
            into: (N, size) uint8, contiguous.
            places: (n,) rows of it, in any order.

        Raises VocabkitError: the file can't be read, or ends too soon.
        """
        if not len(ids):
            return
        view = into.data.cast("B")
        runs = np.flatnonzero((np.diff(ids) != 1) | (np.diff(places) != 1)) + 1
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for first, last in pairwise([0, *runs.tolist(), len(ids)]):
                file.seek(self.start + int(ids[first]) * self.size)
                place = int(places[first])
                part = view[place * self.size : (place + last - first) * self.size]
                while part:
                    got = file.readinto(part)
                    if not got:
                        raise VocabkitError(f"{self.path}: ends before row {ids[last - 1]}; it is truncated")
                    part = part[got:]


# MERGED: safetensors: a header of JSON with the place of each tensor, then their bytes (huggingface/safetensors, README).

PREFIX = 8
"""Bytes before the header: its length, little-endian."""
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_LONGEST_HEADER = 100_000_000
"""As in the reference implementation."""


@dataclass(frozen=True)
class Place:
    """Where a matrix stands in a safetensors file."""

    dtype: str
    rows: int
    width: int
    start: int
    """First byte, from the beginning of the file."""
    stop: int


@dataclass(frozen=True)
class SafetensorsRows:
    """A matrix of a safetensors file."""

    stored: ByteRows
    width: int
    dtype: torch.dtype

    @property
    def num_rows(self) -> int:
        return self.stored.count

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        if into.dtype == self.dtype:
            self.stored.read_into(ids, into.view(torch.uint8).numpy(), places)
        else:
            rows = torch.from_numpy(self.stored.read(ids)).view(self.dtype)
            into.index_copy_(0, torch.from_numpy(places), rows.to(into.dtype))


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    where: str
    """Its file, for messages."""
    entries: Mapping[str, Any]
    data: int
    """Where the bytes of the tensors begin in the file."""

    @property
    def names(self) -> list[str]:
        """Of all tensors."""
        return [name for name in self.entries if name != "__metadata__"]

    def place_of(self, name: str) -> Place:
        """Where the tensor `name` stands.

        Raises VocabkitError: not there, not a matrix of 16, 32 or 64-bit floats, or of another size than these need.
        """
        where, entry = f"{self.where}: {quote(name)}", self.entries.get(name)
        if entry is None:
            raise VocabkitError(f"{where} is not in it, though the index says so")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if dtype not in DTYPES:
            raise VocabkitError(
                f"{where} is stored as {quote(str(dtype))}, expected {', '.join(DTYPES)}; "
                "take weights that are not quantised"
            )
        if not _whole_numbers(shape, 2) or 0 in shape:
            raise VocabkitError(f"{where} has shape {quote(str(shape))}, expected a matrix (rows, width)")
        size = shape[0] * shape[1] * DTYPES[dtype].itemsize
        if not _whole_numbers(offsets, 2) or offsets[1] - offsets[0] != size:
            raise VocabkitError(f"{where} stands at {quote(str(offsets))}, but its numbers take {size} bytes")
        return Place(dtype, shape[0], shape[1], self.data + offsets[0], self.data + offsets[1])


def read_header(path: Path) -> Header:
    """The header of `path`, after the library itself has proven it against the file.

    Raises VocabkitError: missing, truncated, or a header with offsets that overlap, leave gaps or leave the file.
    """
    with reading(path):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise VocabkitError(f"{path}: not a safetensors file, or truncated ({quote(str(error), 100)})") from error
        with path.open("rb") as file:
            return parse_header(file.read(header_length(file.read(PREFIX), str(path))), str(path))


def header_length(prefix: bytes, where: str) -> int:
    """Bytes of the header, told from the first 8 bytes of a file. Raises VocabkitError if that can't be."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < PREFIX or not 2 <= length <= _LONGEST_HEADER:
        raise VocabkitError(f"{where}: not a safetensors file (a header of {length} bytes)")
    return length


def parse_header(content: bytes, where: str) -> Header:
    """A header. Raises VocabkitError if it is not JSON of that form."""
    try:
        entries = msgspec.json.decode(content, type=dict[str, dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VocabkitError(f"{where}: damaged safetensors header ({quote(str(error), 100)})") from error
    return Header(where, entries, PREFIX + len(content))


def rows_at(path: Path, place: Place) -> SafetensorsRows:
    """The matrix at `place` of the file `path`."""
    dtype = DTYPES[place.dtype]
    return SafetensorsRows(ByteRows(path, place.start, place.rows, place.width * dtype.itemsize), place.width, dtype)


def _whole_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(n) is int and n >= 0 for n in value)


# MERGED: Files of torch.save: memory-mapped, and never executed.


@dataclass(frozen=True, eq=False)
class TorchRows:
    """A memory-mapped matrix."""

    stored: Tensor

    @property
    def num_rows(self) -> int:
        return self.stored.shape[0]

    @property
    def width(self) -> int:
        return self.stored.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.stored.dtype

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        rows = self.stored.index_select(0, torch.from_numpy(ids))
        into.index_copy_(0, torch.from_numpy(places), rows.to(into.dtype))


def read_tensors(path: Path) -> Mapping[str, Any]:
    """Name -> tensor. Raises VocabkitError: see `read_torch`; or something else than tensors by name."""
    content = read_torch(path)
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise VocabkitError(f"{path}: holds no tensors by name; expected the weights of a model")
    return content


def rows_of(tensors: Mapping[str, Any], name: str, path: Path) -> TorchRows:
    """The matrix `name`. Raises VocabkitError: not there, or not a matrix of floats."""
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise VocabkitError(f"{path}: no dense tensor {quote(name)} in it")
    if tensor.ndim != 2 or not tensor.numel():
        raise VocabkitError(f"{path}: {quote(name)} has shape {tuple(tensor.shape)}, expected a matrix (rows, width)")
    if tensor.dtype not in DTYPES.values():
        raise VocabkitError(f"{path}: {quote(name)} is stored as {tensor.dtype}; take weights that are not quantised")
    return TorchRows(tensor.detach())


# MERGED: GGUF: quantised rows, of which only those asked for are dequantised.

_READ = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@dataclass(frozen=True)
class GGUFRows:
    """The embedding table of a GGUF file."""

    stored: ByteRows
    width: int
    type: GGMLQuantizationType
    dtype: torch.dtype = torch.float32

    @property
    def num_rows(self) -> int:
        return self.stored.count

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        rows = torch.from_numpy(dequantize(self.stored.read(ids), self.type))  # (n, bytes of a row) -> (n, D)
        into.index_copy_(0, torch.from_numpy(places), rows.to(into.dtype))


def open_gguf(path: Path) -> tuple[Mapping[str, Any], GGUFRows]:
    """The metadata of a GGUF file and its embedding table.

    Raises VocabkitError: not a GGUF, without an embedding table, quantised in a way that is not known, or truncated.
    """
    metadata, tensors = read_tensor_table(path)
    table = tensors.get(EMBEDDING)
    if table is None:
        part = (
            " in this part of a split model; give the part that has it" if "split.count" in metadata else "; not an LLM"
        )
        raise VocabkitError(f"{path}: no {EMBEDDING} in it{part}")
    try:
        kind = GGMLQuantizationType(table.type)
    except ValueError:
        kind = None
    if kind is None or kind.name not in _READ:
        name = f"number {table.type}" if kind is None else kind.name
        raise VocabkitError(
            f"{path}: embeddings quantised as {name}, which is not read; expected one of {', '.join(_READ)}"
        )
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if len(table.shape) != 2 or not prod(table.shape) or table.shape[1] % block:
        raise VocabkitError(f"{path}: {EMBEDDING} has shape {table.shape}, expected (rows, width) in blocks of {block}")
    rows, width = table.shape
    stored = ByteRows(path, table.start, rows, width // block * block_bytes)
    if stored.start + rows * stored.size > path.stat().st_size:
        raise VocabkitError(f"{path}: truncated: {EMBEDDING} reaches beyond its end; download it again")
    return metadata, GGUFRows(stored, width, kind)


# MERGED: The index of weights in several files: which file holds which tensor.


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_index(path: Path) -> dict[str, str]:
    """Tensor -> file name, as in model.safetensors.index.json.

    What it names lies beside it, nowhere else. Raises VocabkitError: missing, damaged, or a shard that is not a plain
    file name.
    """
    shards = decode_json(path, _Index, "an index of weight files").weight_map
    for tensor, shard in shards.items():
        if Path(shard).name != shard or shard in ("", "..") or "\\" in shard or ":" in shard:
            raise VocabkitError(
                f"{path}: puts {quote(tensor)} into {quote(shard)}, which is no file beside it; don't trust this model"
            )
    return shards


# MERGED: Which tensor of a checkpoint is the embedding table of its language model.

_EMBEDDINGS = re.compile(
    r"((model|transformer|language_model|llm|lm|text_model|thinker|base_model|backbone|decoder|embedding|embeddings|rwkv"
    r"|gpt_neox|gpt_neox_japanese|biogpt|cpmant)\.)*"
    r"(embed_tokens|wte|embed_in|word_embeddings?|tok_embeddings|tokens_embed|embeddings?|input_embedding)\.weight"
)
"""The names that model families give it, with whatever their wrappers put before. Towers of other modalities, further
prediction heads (`model.layers.61.embed_tokens.weight`) and position embeddings have other names."""
_OUTPUT = re.compile(r"((model|language_model|thinker)\.)*lm_head\.weight")
_ALIKE = re.compile(r"emb|wte|\bshared\b", re.IGNORECASE)


def embedding_name(names: Collection[str], model: LanguageModel, where: str) -> str:
    """The name of the embedding table among the `names` of all tensors.

    Raises VocabkitError: none of them, or several, with those that come near.
    """
    found = sorted(filter(_EMBEDDINGS.fullmatch, names))
    if not found and model.tied:
        found = sorted(filter(_OUTPUT.fullmatch, names))
    if len(found) == 1:
        return found[0]
    near = found or sorted(filter(_ALIKE.search, names)) or sorted(names)
    listed = ", ".join(map(quote, near[:5])) + (", …" if len(near) > 5 else "")
    problem = "several tensors look like" if found else "no tensor is named like"
    raise VocabkitError(
        f"{where}: {problem} the embedding table of a model of type {model.family} (it has {listed or 'none'})"
    )


# MERGED: The files that models are kept in, except GGUF.

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
        header = read_header(file)
        return rows_at(file, header.place_of(name or embedding_name(header.names, model, str(file))))
    if file.suffix in (".bin", ".pt", ".pth"):
        tensors = read_tensors(file)
        return rows_of(tensors, name or embedding_name(tensors, model, str(file)), file)
    raise VocabkitError(
        f"{file}: not a weights file; expected .safetensors, .gguf, .bin, .pt or an .index.json of them"
    )


# MERGED: The weights of the models that go into an export, memory-mapped, a file at a time.


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
