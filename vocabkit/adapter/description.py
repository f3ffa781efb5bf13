"""What an adapter is, read from its checkpoint without its tensors and without torch: its config and V_shared.

A `.pt` file is a zip archive of a pickle and the bytes of its tensors. Only plain containers and places of tensors
are unpickled; every other name in the pickle is refused before it is looked up.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vocabkit.adapter.config import AdapterConfig
from vocabkit.errors import VocabkitError, did_you_mean, quote
from vocabkit.files.atomic import check_writable, reading
from vocabkit.hub import Repository, hub_id, why_unreachable
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared, parse_shared

FORMAT, VERSION = "vocabkit-adapter", 1
CONFIG, WEIGHTS, SHARED, CARD = "config.json", "model.safetensors", "shared_vocabulary.arrow", "README.md"
IMPORT = "; for LangBridge's published weights, run `vocabkit import` first"
KINDS = {
    "langbridge": "a LangBridge adapter",
    "transferred": "a transferred adapter",
    "mlp": "an MLP projector",
}
"""`adapter_type` -> what messages call it."""
SINGLE_FILES = {"mmproj": ("a llama.cpp projector", ".gguf"), "mm_projector": ("LLaVA's projector", ".bin")}
"""Exports that are single files: what messages call them, and their suffix."""
EXPORTS = {
    "hf": "llava",
    "projector": "mlp",
    "llava": "llava",
    "llava-next": "llava",
    "mmproj": "mmproj",
    "mm_projector": "mm_projector",
}
"""Form of an export -> what it writes, as for `check_name`."""
_OF_FILES = (".arrow", ".bin", ".gguf", ".json", ".pt", ".pth", ".safetensors")
"""Suffixes of files: a folder with such a name would be mistaken for a file."""
ADVICE = {
    ("mlp", "langbridge"): "it has no vocabulary, so it can't be moved: train one with a head (`vocabkit train`)",
    ("transferred", "langbridge"): "give the adapter that it was made from",
    ("langbridge", "transferred"): "run `vocabkit transfer` first",
    ("mlp", "transferred"): "it was made for one LLM and can't be moved",
}
"""(`adapter_type` found, wanted) -> what to do."""


@dataclass(frozen=True, eq=False)
class Description:
    """An adapter with a head, without its tensors."""

    config: AdapterConfig
    shared: SharedVocabulary


def describe(source: str | Path) -> Description:
    """Read what an adapter with a head is from a checkpoint folder, a `.pt` file or a hub id.

    Raises VocabkitError: not found, not such a checkpoint, or its vocabulary is not that of its config.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        config, shared = read_folder_config(path), path / SHARED
        found = open_shared(shared) if shared.exists() else None
    elif path.exists() and path.suffix == ".pt":
        config, found = _read_archive(path)
    elif path.exists():
        raise VocabkitError(f"{path}: expected a folder with {CONFIG} or a file named *.pt{IMPORT}")
    elif problem := nowhere(source):
        raise VocabkitError(problem)
    else:
        return describe(_fetched(str(source)))
    parsed: AdapterConfig = config_of(path, config, AdapterConfig, AdapterConfig.KINDS)
    if found is None or found.fingerprint != parsed.shared_fingerprint:
        raise VocabkitError(f"{path}: its shared vocabulary is missing, or not that of its config; save it again")
    return Description(parsed, found)


def nowhere(source: str | Path) -> str | None:
    """What is wrong with the name of a checkpoint that is neither here nor a hub id; None if it is one of them."""
    path = Path(source).expanduser()
    if path.exists():
        return None
    if path.suffix == ".pt":  # also the name of a file in a folder looks like owner/name
        near = [file.name for file in path.parent.glob("*.pt")]
        return f"{source}: no such file; {did_you_mean(path.name, near, 'check the name')}"
    if hub_id(str(source)):
        return None
    return f"{source}: no such file or folder, and no hub id (owner/name or owner/name@revision)"


def check_name(path: Path, kind: str) -> None:
    """Raise VocabkitError if `path` is no name for a result of this kind, can't be written, or holds another kind.

    Args:
        kind: an `adapter_type`, `llava`, `mmproj` or `mm_projector`.
    """
    suffix = path.suffix.lower()
    if kind == "llava":
        if suffix in _OF_FILES:
            raise VocabkitError(f"{path}: a Llava checkpoint is a folder; choose a name that does not end in {suffix}")
        if os.path.lexists(path):
            raise VocabkitError(f"{path}: already exists; choose another name")
        return
    if kind in SINGLE_FILES:
        name, ending = SINGLE_FILES[kind]
        if suffix != ending:
            raise VocabkitError(f"{path}: {name} is a file named *{ending}; choose such a name")
    elif suffix in _OF_FILES and path.suffix != ".pt":
        raise VocabkitError(f"{path}: {KINDS[kind]} is a folder, or one file named *.pt; choose such a name")
    if kind in SINGLE_FILES or suffix == ".pt":
        check_writable(path)
    taken = path.is_file() or (path / CONFIG).exists()
    if kind in KINDS and taken and _stored_kind(path) != kind:
        raise VocabkitError(f"{path}: exists and is not {KINDS[kind]}; choose another name, or remove it")


def _stored_kind(path: Path) -> str | None:
    """The `adapter_type` of a checkpoint; None if `path` holds something else."""
    try:
        config = read_folder_config(path) if path.is_dir() else _read_archive(path)[0]
    except VocabkitError:
        return None
    return str(config.get("adapter_type"))


def read_json(path: Path, text: str | bytes) -> dict[str, Any]:
    """Parse the config of the checkpoint `path`. Raises VocabkitError: not JSON, or not an adapter of this version."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VocabkitError(f"{path}: its config is not JSON ({quote(str(error), 120)})") from error
    config = config if isinstance(config, dict) else {}
    name, _, version = str(config.get("format")).partition("/")
    if name != FORMAT:
        raise VocabkitError(f"{path}: not an adapter of vocabkit (its config has no format {FORMAT}){IMPORT}")
    if version != str(VERSION):
        raise VocabkitError(
            f"{path}: {FORMAT} format {quote(version)}; this vocabkit reads format {VERSION}. "
            "Upgrade: pip install -U vocabkit"
        )
    return config


def config_of(path: Path, config: Mapping[str, Any], config_class: Any, kinds: Sequence[str]) -> Any:
    """Parse the `config` of the checkpoint `path`. Raises VocabkitError: not of these `adapter_type`s, or wrong."""
    found = config.get("adapter_type")
    if found not in kinds:
        advice = ADVICE.get((str(found), kinds[0]), "give another one")
        raise VocabkitError(f"{path}: holds {kind_of(found)}, not {KINDS[kinds[0]]}; {advice}")
    try:
        return config_class.from_json(config)
    except msgspec.ValidationError as error:
        raise VocabkitError(f"{path}: its config is wrong: {error}") from error


def kind_of(found: object) -> str:
    """Return what messages call an `adapter_type` that was read from a file."""
    return KINDS[found] if isinstance(found, str) and found in KINDS else f"an adapter of type {quote(str(found))}"


def read_folder_config(folder: Path) -> dict[str, Any]:
    """`read_json` of a checkpoint folder. Raises VocabkitError: it has none."""
    file = folder / CONFIG
    if not file.exists():
        raise VocabkitError(f"{folder}: no {CONFIG} here: not an adapter, or its save was interrupted; save it again")
    with reading(file):
        return read_json(file, file.read_bytes())


def _fetched(source: str) -> Path:
    """The local folder with the config and the vocabulary of a hub repository."""
    repository = Repository(source)
    config, _ = repository.file(CONFIG), repository.file(SHARED)
    if config is None:
        why = f"has no {CONFIG}: not an adapter" if repository.reachable else why_unreachable()
        raise VocabkitError(f"{source}: {why}")
    return config.parent


# ---- the archive of torch.save -----------------------------------------------------------------------------------


class _Tensor(NamedTuple):
    """A tensor in the pickle: the entry with its bytes, its first element and how many there are."""

    entry: str
    start: int
    size: tuple[int, ...]


def _tensor(storage: str, start: int, size: tuple[int, ...], *_: object) -> _Tensor:
    """Stands for torch._utils._rebuild_tensor_v2."""
    return _Tensor(storage, start, size)


class _Unpickler(pickle.Unpickler):
    """Unpickles plain containers and `_Tensor`; looks up no other name."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for. Raises UnpicklingError: no tensor and no container."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> str:
        """The entry of a storage."""
        return str(pid[2])


def _read_archive(path: Path) -> tuple[dict[str, Any], SharedVocabulary | None]:
    """Config and V_shared of a `.pt` file."""
    damaged = f"{path}: damaged, or not an adapter of vocabkit{IMPORT}"
    with reading(path):
        try:
            with zipfile.ZipFile(path) as archive:
                pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(pickled) as file:
                    content = _Unpickler(file).load()
                text, arrow = content["config"], content.get("shared_vocabulary")
                stored = b""
                if arrow is not None:  # a tensor of bytes
                    stored = archive.read(f"{pickled.removesuffix('data.pkl')}data/{arrow.entry}")
                    stored = stored[arrow.start : arrow.start + arrow.size[0]]
        except OSError:
            raise
        except Exception as error:  # zipfile and pickle raise many kinds on damaged files
            raise VocabkitError(damaged) from error
    if not isinstance(text, str):
        raise VocabkitError(damaged)
    config = read_json(path, text)
    return config, None if arrow is None else parse_shared(stored, f"{path}: {SHARED} inside")
