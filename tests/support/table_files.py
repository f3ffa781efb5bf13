"""Model files that hold little more than an embedding table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

NAME = "model.embed_tokens.weight"


def random_table(rows: int = 50, width: int = 8, dtype: torch.dtype = torch.float32, seed: int = 3) -> Tensor:
    """(rows, width) random numbers."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def write_config(folder: Path, **values: Any) -> Path:
    """The config.json of a Llama."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **values}))
    return folder


def safetensors_folder(folder: Path, tensors: Mapping[str, Tensor], **values: Any) -> Path:
    """A model folder with these tensors."""
    write_config(folder, **values)
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def raw_safetensors(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """A model folder with a header written by hand."""
    write_config(folder)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = (len(text) if length is None else length).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(prefix + text + data)
    return folder


def index_folder(folder: Path, weight_map: Any) -> Path:
    """A model folder with an index alone."""
    write_config(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def random_blocks(rows: int, width: int, kind: gguf.GGMLQuantizationType, seed: int = 4) -> np.ndarray:
    """(rows, bytes) uint8 that are a quantised matrix: any bytes are, as long as their scales are finite."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, width // block * size), np.uint8)
    if kind == gguf.GGMLQuantizationType.MXFP4:
        raw[:, ::size] &= 0x7F  # its scales are exponents of 2, up to 2^127
    return raw & 0xBF  # no 16-bit float with the top bit of its exponent clear is infinite


def write_gguf(
    file: Path,
    raw: np.ndarray,
    kind: gguf.GGMLQuantizationType,
    architecture: str = "llama",
    *,
    name: str = "token_embd.weight",
    other: str = "blk.0.attn_norm.weight",
    **metadata: float,
) -> Path:
    """A GGUF file with (rows, bytes) `raw` as its table, between other tensors."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_token_list([f"t{i}" for i in range(len(raw))])
    for key, value in metadata.items():
        writer.add_float32(f"{architecture}.{key}", value)
    writer.add_tensor("output_norm.weight", np.ones(7, np.float32))
    writer.add_tensor(name, raw, raw_dtype=kind)
    writer.add_tensor(other, np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def bytes_read() -> int:
    """What this process has read from files so far (Linux)."""
    return int(Path("/proc/self/io").read_text().split()[1])
