"""Weight files of models: safetensors, torch.save and GGUF. Only the needed rows are read.

What config.json, or the metadata of a GGUF, says about the language model decides which tensor is its embedding table.
Safetensors: a JSON header with the place of each tensor, then their bytes (huggingface/safetensors, README).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
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
from vocabkit.tokenizer.gguf import EMBEDDING, read_tensor_table

_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
"""Keys under which the config of a multimodal model keeps that of its language model."""
_ENCODERS = {
    "big_bird", "data2vec-text", "electra", "ernie", "esm", "fnet", "funnel", "gte", "longformer", "luke", "mpnet",
    "mra", "nystromformer", "roformer", "t5encoder", "xlm", "xmod", "yoso",
}  # fmt: skip
"""Encoder families without `bert` in their name, of transformers and GGUF."""
_DTYPES = {
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64,
    "auto": None, None: None,
}  # fmt: skip


@dataclass(frozen=True)
class LanguageModel:
    """The language model of a checkpoint."""

    file: str
    """The config file, for messages."""
    family: str
    """Its model_type in transformers."""
    values: Mapping[str, Any]
    """Its own part of the config."""
    dtype: torch.dtype | None
    """The dtype that the model runs in; None for that of the weights."""
    tied: bool
    """Whether the output layer is the embedding table."""

    @property
    def is_encoder(self) -> bool:
        """Whether it is encoder-only, as BERT: it can't generate text from visual tokens."""
        if self.values.get("is_decoder") is True or "decoder" in self.family:
            return False
        heads = self.values.get("architectures")
        masked = isinstance(heads, list) and any(str(name).endswith("ForMaskedLM") for name in heads)
        return masked or "bert" in self.family or self.family in _ENCODERS


def read_config(path: Path) -> LanguageModel:
    """Read a config.json.

    Raises VocabkitError: missing or damaged, no model type, or an unknown dtype.
    """
    if not path.is_file():
        raise VocabkitError(
            f"{path}: no such file; weights are read together with the model's config.json, which says how its "
            "embeddings are multiplied"
        )
    config = decode_json(path, dict[str, Any], "a model's config.json")
    inner = config
    while (key := next((key for key in _INNER if isinstance(inner.get(key), dict)), None)) is not None:
        inner = inner[key]
    family = inner.get("model_type", config.get("model_type"))
    if not isinstance(family, str):
        raise VocabkitError(f"{path}: no model_type in it; expected the config.json of an LLM")
    dtype = config.get("dtype", config.get("torch_dtype"))
    if not isinstance(dtype, str | None) or dtype not in _DTYPES:
        raise VocabkitError(f"{path}: dtype {quote(str(dtype))} is not one of {', '.join(filter(None, _DTYPES))}")
    tied = inner.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return LanguageModel(str(path), family, inner, _DTYPES[dtype], tied is True)


def from_gguf(file: str, metadata: Mapping[str, Any]) -> LanguageModel:
    """Describe the language model of a GGUF file, which transformers loads in float32.

    llama.cpp's converter leaves embeddings unmultiplied and stores the factor, with two exceptions: it multiplies
    those of Falcon-H1 itself, and the factor of MiniCPM3 is built in.

    Raises VocabkitError: no architecture, or MiniCPM without its factor.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise VocabkitError(f"{file}: GGUF without an architecture; expected one of an LLM")
    scale = metadata.get(f"{architecture}.embedding_scale")
    values: dict[str, Any] = {}
    match architecture:
        case "minicpm":
            if scale is None:
                raise VocabkitError(
                    f"{file}: no minicpm.embedding_scale in it; convert the model with a newer llama.cpp"
                )
            values = {"scale_emb": scale}
        case "minicpm3":
            values = {"scale_emb": 12}
        case "granitehybrid" | "graniteswitch":
            architecture = "granite"
        case _ if scale is not None:
            values = {"embedding_scale": scale}
    return LanguageModel(file, architecture.replace("-", "_"), values, torch.float32, tied=True)


WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".json")
"""Suffixes of files that may hold embeddings."""
LORA_CONFIG = "adapter_config.json"
"""Marks a folder of peft, which holds LoRA weights and not the LLM."""
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


def open_weights(file: Path, model: LanguageModel) -> StoredRows:
    """Open the embedding table of `model` in a weights file, or in the one that an index names.

    Raises VocabkitError: missing or damaged files, no embedding table or several, one that is not a float matrix.
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


_EMBEDDINGS = re.compile(
    r"((model|transformer|language_model|llm|lm|text_model|thinker|base_model|backbone|decoder|embedding|embeddings|rwkv"
    r"|gpt_neox|gpt_neox_japanese|biogpt|cpmant)\.)*"
    r"(embed_tokens|wte|embed_in|word_embeddings?|tok_embeddings|tokens_embed|embeddings?|input_embedding)\.weight"
)
"""Names of the embedding table in all families, with the prefixes of their wrappers. Towers of other modalities,
further prediction heads (`model.layers.61.embed_tokens.weight`) and position embeddings have other names."""
_OUTPUT = re.compile(r"((model|language_model|thinker)\.)*lm_head\.weight")
_ALIKE = re.compile(r"emb|wte|\bshared\b", re.IGNORECASE)


def embedding_name(names: Collection[str], model: LanguageModel, where: str) -> str:
    """Find the name of the embedding table among the `names` of all tensors.

    Raises VocabkitError: no match, or several, with the closest names.
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

    def place_of(self, name: str) -> Place:
        """Return the place of tensor `name`.

        Raises VocabkitError: missing, not a matrix of 16, 32 or 64-bit floats, or offsets that don't match its size.
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
    """Load a file of torch.save: name -> tensor. Raises VocabkitError: see `read_torch`; or not tensors by name."""
    content = read_torch(path)
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise VocabkitError(f"{path}: holds no tensors by name; expected the weights of a model")
    return content


def rows_of(tensors: Mapping[str, Any], name: str, path: Path) -> TorchRows:
    """Return the matrix `name`. Raises VocabkitError: missing, or not a float matrix."""
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise VocabkitError(f"{path}: no dense tensor {quote(name)} in it")
    if tensor.ndim != 2 or not tensor.numel():
        raise VocabkitError(f"{path}: {quote(name)} has shape {tuple(tensor.shape)}, expected a matrix (rows, width)")
    if tensor.dtype not in DTYPES.values():
        raise VocabkitError(f"{path}: {quote(name)} is stored as {tensor.dtype}; take weights that are not quantised")
    return TorchRows(tensor.detach())


@dataclass(frozen=True)
class GGUFRows:
    """Rows of the embedding table of a GGUF file; only those that are read are dequantised."""

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
    """Return the metadata of a GGUF file and its embedding table.

    Raises VocabkitError: not a GGUF, no embedding table, an unsupported quantisation, or truncated.
    """
    metadata, tensors = read_tensor_table(path)
    table = tensors.get(EMBEDDING)
    if table is None:
        part = (
            " in this part of a split model; give the part that has it" if "split.count" in metadata else "; not an LLM"
        )
        raise VocabkitError(f"{path}: no {EMBEDDING} in it{part}")
    kind, block, block_bytes = _quantisation(path, table.type)
    if f"{EMBEDDING.removesuffix('weight')}scale" in tensors:
        raise VocabkitError(
            f"{path}: its embeddings have a scale in a tensor of its own, which is not read; not supported"
        )
    if len(table.shape) != 2 or not prod(table.shape) or table.shape[1] % block:
        raise VocabkitError(f"{path}: {EMBEDDING} has shape {table.shape}, expected (rows, width) in blocks of {block}")
    rows, width = table.shape
    stored = ByteRows(path, table.start, rows, width // block * block_bytes)
    if stored.start + rows * stored.size > path.stat().st_size:
        raise VocabkitError(f"{path}: truncated: {EMBEDDING} reaches beyond its end; download it again")
    return metadata, GGUFRows(stored, width, kind)


def _quantisation(path: Path, number: int) -> tuple[GGMLQuantizationType, int, int]:
    """Return the quantisation of this number, and the numbers and bytes of a block.

    Raises VocabkitError: the gguf package can't decode it.
    """
    name = f"number {number}"
    try:
        kind = GGMLQuantizationType(number)
        name = kind.name
        block, size = GGML_QUANT_SIZES[kind]
        dequantize(np.zeros((1, size), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise VocabkitError(
            f"{path}: embeddings quantised as {name}, which the gguf package ({version('gguf')}) can't decode; "
            "update it, or take another GGUF of the model"
        ) from error
    return kind, block, size


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
