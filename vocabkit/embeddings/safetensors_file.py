"""safetensors: a header of JSON with the place of each tensor, then their bytes (huggingface/safetensors, README)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vocabkit.embeddings.byte_rows import ByteRows
from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading

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
