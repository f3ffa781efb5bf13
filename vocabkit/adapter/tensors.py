"""Load tensors from untrusted files, and hash them."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading, write_atomically

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes that adapters are stored in."""


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the tensors alone: `hash_tensors` with the start that docs/formats.md fixes."""
    return hash_tensors(b"vocabkit weights 1\n", tensors)


def hash_tensors(start: bytes, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of `start`, then name, dtype, shape and bytes of each tensor, in the order of the names."""
    digest = hashlib.sha256(start)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def read_torch(path: Path) -> Any:
    """Load a file of `torch.save`, memory-mapped. Only tensors and plain containers are ever unpickled.

    Raises VocabkitError: missing, truncated, not written by `torch.save`, or a pickle that would run code.
    """
    with reading(path):
        size = path.stat().st_size
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except OSError:
            raise
        except Exception as error:  # zipfile raises many kinds on a damaged directory
            with path.open("rb") as file:
                what = (
                    "truncated"
                    if b"PK\3\4".startswith(file.read(4))
                    else "not a file of torch.save (of torch 1.6 or newer)"
                )
            raise VocabkitError(f"{path}: {what}") from error
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size for entry in entries):
        raise VocabkitError(f"{path}: compressed; torch.save never writes such a file")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about oddities of untrusted files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's restricted unpickler raises many kinds
        raise VocabkitError(f"{path}: damaged, or holds more than plain tensors, which are all that is read") from error


def write_torch(path: Path, content: Any) -> None:
    """Save plain containers and tensors with `torch.save`, whole or not at all. Raises VocabkitError: can't write."""

    def write(file: BinaryIO) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer hides why the file refused
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error

    write_atomically(path, write)


def check_tensors(
    path: Path, tensors: Mapping[Any, Any], *, advice: str = "take an earlier checkpoint, or download it again"
) -> None:
    """Raise VocabkitError unless all names are text and all tensors dense, floating-point and finite.

    Args:
        advice: what to do about non-finite numbers.
    """
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and is_plain(tensor) and tensor.dtype in DTYPES and tensor.numel()):
            raise VocabkitError(f"{path}: {quote(str(name))} is not a dense tensor of 16, 32 or 64-bit floats")
        # NaN and infinity show in the extremes; isfinite would need a second tensor of that size
        if not all(extreme.isfinite() for extreme in tensor.aminmax()):
            raise VocabkitError(f"{path}: {quote(name)} holds NaN or infinite numbers; {advice}")


def is_plain(value: Any) -> bool:
    """Whether `value` is a dense tensor with each element in memory once."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.is_contiguous()
    )


def detach_copy(tensor: Tensor) -> Tensor:
    """Return the values on the CPU, contiguous. Copies a view, since torch.save would write its whole storage."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
