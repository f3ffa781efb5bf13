"""Where results are written, and what may take the place of what.

An adapter, a projector, `mm_projector.bin` or mmproj GGUF takes the place of an earlier result of the same kind, and of
nothing else. An exported Llava checkpoint, which holds a whole LLM, takes no place that is taken.
"""

from __future__ import annotations

import os
from pathlib import Path

from vocabkit.adapter.checkpoint import KINDS, adapter_type, is_unfinished
from vocabkit.adapter.tensors import read_torch
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import check_writable
from vocabkit.tokenizer.gguf import read_tensor_table

_OF_FILES = (".arrow", ".bin", ".gguf", ".json", ".pt", ".pth", ".safetensors")
"""Endings by which people, and programs, take a folder for a file."""
_FILES = {"mmproj": ("a llama.cpp projector", ".gguf"), "mm_projector": ("LLaVA's projector", ".bin")}
"""What is written as a file, in words, and how its name ends."""
_MM_PROJECTOR = {f"model.mm_projector.{layer}.{part}" for layer in "02" for part in ("weight", "bias")}


def check_destination(path: Path, kind: str) -> None:
    """Before the work that leads to a result, and again before it is written. Writes nothing.

    Args:
        kind: an `adapter_type`, `llava`, `mmproj` or `mm_projector`.

    Raises VocabkitError: a name that belongs to another format, something else stands there, or can't write here.
    """
    suffix = path.suffix.lower()
    if kind == "llava":
        if suffix in _OF_FILES:
            raise VocabkitError(f"{path}: a Llava checkpoint is a folder; choose a name that does not end in {suffix}")
        if os.path.lexists(path):
            raise VocabkitError(f"{path}: is there already; choose another name")
        return
    if kind in _FILES:
        name, ending = _FILES[kind]
        if suffix != ending:
            raise VocabkitError(f"{path}: {name} is a file named *{ending}; choose such a name")
    elif suffix in _OF_FILES and path.suffix != ".pt":
        raise VocabkitError(f"{path}: {KINDS[kind]} is a folder, or one file named *.pt; choose such a name")
    if kind in _FILES or suffix == ".pt":
        check_writable(path)
    if path.exists() and not _holds(path, kind):
        raise VocabkitError(f"{path}: is there and is not {_name(kind)}; choose another name, or remove it")


def _name(kind: str) -> str:
    return _FILES[kind][0] if kind in _FILES else KINDS[kind]


def _holds(path: Path, kind: str) -> bool:
    """Whether a result of this kind stands there, or what the interrupted save of an adapter left."""
    try:
        if kind == "mmproj":
            return read_tensor_table(path)[0].get("general.type") == "mmproj"
        if kind == "mm_projector":
            content = read_torch(path)
            return isinstance(content, dict) and content.keys() == _MM_PROJECTOR
        return is_unfinished(path) or adapter_type(path) == kind
    except VocabkitError:
        return False
