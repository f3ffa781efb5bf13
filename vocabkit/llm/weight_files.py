"""Weight files of models: safetensors and torch.save. Only the needed rows are read.

Safetensors: a JSON header with the place of each tensor, then their bytes (huggingface/safetensors, README).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from vocabkit.adapter.state_dicts import unwrapped, why_unusable
from vocabkit.adapter.tensors import read_torch
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import decode_json
from vocabkit.llm.embedding_names import embedding_name
from vocabkit.llm.language_model import LanguageModel
from vocabkit.tokenizer.lora import LORA_CONFIG

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".json")
"""Suffixes of files that may hold embeddings."""
_IN_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Weights in a folder, first found is taken: the order of transformers."""


class StoredRows(Protocol):
    """A matrix in a file whose rows can be read one by one."""

    @property
    def num_rows(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its numbers once read."""

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        """Write row ids[i] to into[places[i]], in the dtype of `into`.

        Args:
            ids: (n,) int64, n > 0, each below `num_rows`, ascending; they may repeat.
            into: (N, D), contiguous.
            places: (n,) int64 rows of it, in any order.
        """


def open_weights(file: Path, model: LanguageModel, wanted: str | None = None) -> StoredRows:
    """Open the embedding table of `model` in a weights file, or in the one that an index names.

    Args:
        wanted: the name of the table, if the caller knows it.

    Raises VocabkitError: missing or damaged files, no embedding table or several, one that is not a float matrix.
    """
    if file.name.endswith(".index.json"):
        shards = read_index(file)
        name = embedding_name(shards, model, str(file), lambda name: _shape(file.parent / shards[name], name), wanted)
        return _rows_in(file.parent / shards[name], name)
    if file.suffix == ".safetensors":
        header = read_header(file)
        return rows_at(file, header.place_of(embedding_name(header.names, model, str(file), header.shape_of, wanted)))
    if file.suffix in (".bin", ".pt", ".pth"):
        tensors = read_tensors(file)
        name = embedding_name(tensors, model, str(file), lambda name: _shape_in(tensors, name), wanted)
        return rows_of(tensors, name, file)
    raise VocabkitError(
        f"{file}: not a weights file; expected .safetensors, .gguf, .bin, .pt or an .index.json of them"
    )


def _rows_in(file: Path, name: str) -> StoredRows:
    if file.suffix == ".safetensors":
        return rows_at(file, read_header(file).place_of(name))
    return rows_of(read_tensors(file), name, file)


def _shape(file: Path, name: str) -> Sequence[int] | None:
    return read_header(file).shape_of(name) if file.suffix == ".safetensors" else _shape_in(read_tensors(file), name)


def _shape_in(tensors: Mapping[str, Any], name: str) -> Sequence[int] | None:
    tensor = tensors.get(name)
    return tuple(tensor.shape) if isinstance(tensor, Tensor) else None


def weights_file(folder: Path) -> Path:
    """Return the weights file of a model folder, or its index.

    Raises VocabkitError: no weights, several, or only LoRA weights.
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


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of a model folder, sorted by name: safetensors, or of torch.save.

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
    """Load a file of weights: name -> tensor, memory-mapped. Raises VocabkitError: damaged or not tensors."""
    if file.suffix != ".safetensors":
        return read_tensors(file)
    with reading(file):
        try:
            return load_file(file)
        except SafetensorError as error:
            raise VocabkitError(f"{file}: damaged ({quote(str(error), 80)}); download it again") from error


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_index(path: Path) -> dict[str, str]:
    """Read an index such as model.safetensors.index.json: tensor -> file name.

    Raises VocabkitError: missing, damaged, or a shard that is not a plain file name, as shards must be beside it.
    """
    shards = decode_json(path, _Index, "an index of weight files").weight_map
    for tensor, shard in shards.items():
        if Path(shard).name != shard or shard in ("", "..") or "\\" in shard or ":" in shard:
            raise VocabkitError(
                f"{path}: puts {quote(tensor)} into {quote(shard)}, not a file beside it; don't trust this model"
            )
    return shards


PREFIX = 8
"""Bytes before the header: its length, little-endian."""
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the reference implementation."""


@dataclass(frozen=True)
class Place:
    """Position of a matrix in a safetensors file."""

    dtype: str
    rows: int
    width: int
    start: int
    """First byte, from the beginning of the file."""
    stop: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    where: str
    """The file, for messages."""
    entries: Mapping[str, Any]
    data: int
    """Offset of the tensors in the file."""

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return [name for name in self.entries if name != "__metadata__"]

    def shape_of(self, name: str) -> Sequence[int] | None:
        """Return the shape of tensor `name`, None if it has none."""
        shape = self.entries.get(name, {}).get("shape")
        return shape if isinstance(shape, list) and _whole_numbers(shape, len(shape)) else None

    def place_of(self, name: str) -> Place:
        """Return the place of tensor `name`.

        Raises VocabkitError: missing, not a matrix of 16, 32 or 64-bit floats, or offsets that don't match its size.
        """
        where, entry = f"{self.where}: {quote(name)}", self.entries.get(name)
        if entry is None:
            raise VocabkitError(f"{where} is not in it, though the index says so")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if why := why_unusable(name, self.shape_of(name) or (), str(dtype), self.names):
            raise VocabkitError(f"{where} {why}")
        if dtype not in DTYPES:
            raise VocabkitError(
                f"{where} is stored as {quote(str(dtype))}, expected {', '.join(DTYPES)}; "
                "take weights that are not quantised"
            )
        if not _whole_numbers(shape, 2) or 0 in shape:
            raise VocabkitError(f"{where} has shape {quote(str(shape))}, expected a matrix (rows, width)")
        size = shape[0] * shape[1] * DTYPES[dtype].itemsize
        if not _whole_numbers(offsets, 2) or offsets[1] - offsets[0] != size:
            raise VocabkitError(f"{where} is at {quote(str(offsets))}, but its numbers take {size} bytes")
        return Place(dtype, shape[0], shape[1], self.data + offsets[0], self.data + offsets[1])


def read_header(path: Path) -> Header:
    """Read the header of `path`, after safetensors itself has validated the file.

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
    """Return the bytes of the header, from the first 8 bytes of a file. Raises VocabkitError: an impossible length."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < PREFIX or not 2 <= length <= _LONGEST_HEADER:
        raise VocabkitError(f"{where}: not a safetensors file (a header of {length} bytes)")
    return length


def parse_header(content: bytes, where: str) -> Header:
    """Parse a header. Raises VocabkitError: not JSON of that form."""
    try:
        entries = msgspec.json.decode(content, type=dict[str, dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VocabkitError(f"{where}: damaged safetensors header ({quote(str(error), 100)})") from error
    return Header(where, entries, PREFIX + len(content))


def _whole_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(n) is int and n >= 0 for n in value)


@dataclass(frozen=True)
class SafetensorsRows:
    """Rows of a matrix in a safetensors file."""

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


def rows_at(path: Path, place: Place) -> SafetensorsRows:
    """Return the matrix at `place` in the file `path`."""
    dtype = DTYPES[place.dtype]
    return SafetensorsRows(ByteRows(path, place.start, place.rows, place.width * dtype.itemsize), place.width, dtype)


@dataclass(frozen=True, eq=False)
class TorchRows:
    """Rows of a memory-mapped matrix."""

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
    """Load a file of torch.save: name -> tensor, also out of a checkpoint such as {"state_dict": ...}.

    Raises VocabkitError: see `read_torch`; or not tensors by name.
    """
    content = unwrapped(read_torch(path))
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise VocabkitError(f"{path}: holds no tensors by name; expected the weights of a model")
    return content


def rows_of(tensors: Mapping[str, Any], name: str, path: Path) -> TorchRows:
    """Return the matrix `name`. Raises VocabkitError: missing, or not a float matrix."""
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise VocabkitError(f"{path}: no dense tensor {quote(name)} in it")
    if why := why_unusable(name, tensor.shape, str(tensor.dtype), tensors.keys()):
        raise VocabkitError(f"{path}: {quote(name)} {why}")
    if tensor.ndim != 2 or not tensor.numel():
        raise VocabkitError(f"{path}: {quote(name)} has shape {tuple(tensor.shape)}, expected a matrix (rows, width)")
    if tensor.dtype not in DTYPES.values():
        raise VocabkitError(f"{path}: {quote(name)} is stored as {tensor.dtype}; take weights that are not quantised")
    return TorchRows(tensor.detach())


@dataclass(frozen=True)
class ByteRows:
    """Rows of bytes in a file; runs of neighbours are read straight to where they belong."""

    path: Path
    start: int
    """Offset of the first row in the file."""
    count: int
    size: int
    """Bytes per row."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return these rows as (n, size) uint8; see `read_into`."""
        rows = np.empty((len(ids), self.size), np.uint8)
        self.read_into(ids, rows, np.arange(len(ids)))
        return rows

    def read_into(self, ids: np.ndarray, into: np.ndarray, places: np.ndarray) -> None:
        """Read row ids[i] into into[places[i]], and not a byte more of the file.

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
