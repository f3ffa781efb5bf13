"""The catalog: resolve what people type to a vocabulary.

An argument is, in this order: an existing path (folder, tokenizer file, GGUF, snapshot), a name of catalog.toml, or a
Hugging Face repository with an optional revision (owner/name@revision). `NAME=ARGUMENT` names the result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import binary_array
from vocabkit.errors import VocabkitError, did_you_mean, quote
from vocabkit.files.atomic import reading
from vocabkit.hub import Repository, hub_id, why_unreachable
from vocabkit.tokenizer import snapshot
from vocabkit.tokenizer import tiktoken as tiktoken_bpe
from vocabkit.tokenizer.lora import is_lora, lora_base
from vocabkit.tokenizer.read import FOLDER_FILES, files_beside, holds_tokenizer, read, tokenizer_file
from vocabkit.tokenizer.rules import Rules
from vocabkit.tokenizer.segmentation import load_rules
from vocabkit.tokenizer.snapshot import Provenance
from vocabkit.tokenizer.special_tokens import roles, with_roles
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary


@dataclass(frozen=True)
class Entry:
    """One name of the catalog."""

    name: str
    snapshot: str
    """The snapshot in data/ that holds its vocabulary, without the suffix."""
    provenance: Provenance
    family: str | None
    """Special-token family, for sources that are bare tiktoken ranks."""
    hub: str | None
    """Repository on the Hugging Face hub with this tokenizer."""
    special: tuple[str, ...] = ()
    """Special tokens that the source file marks as text."""
    added: tuple[str, ...] = ()
    """Special tokens that the model has after the ids of its snapshot."""
    width: int | None = None
    embedding_rows: int | None = None
    weights: str | None = None
    """File of `hub` that holds the embedding table; None if its model.safetensors.index.json has to be asked."""
    tensor: str = "model.embed_tokens.weight"
    """Name of the embedding table there."""


@dataclass(frozen=True)
class Resolved:
    """A vocabulary, and where it was found."""

    vocabulary: Vocabulary
    how: str
    file: Path
    """The file that was read."""
    above: tuple[str, ...] = ()
    """Names of the folders above it, nearest first, or the owner on the hub; empty where the name is the user's or the
    catalog's."""


def catalog() -> dict[str, Entry]:
    """All names of the catalog, in the order of catalog.toml."""
    tables = _tables()
    entries = {name: _entry(name, name, table) for name, table in tables["vocabularies"].items()}
    for alias, name in tables["aliases"].items():
        entries[alias] = dataclasses.replace(entries[name], name=alias)
    for name, model in tables["models"].items():
        table = tables["vocabularies"][model["vocabulary"]]
        entries[name] = _entry(name, model["vocabulary"], {**table, **model})
    return entries


def resolve(argument: str) -> Resolved:
    """Return the vocabulary that `argument` names, looked up in the order given above.

    Raises VocabkitError: not found (with similar names), or it can't be read.
    """
    path = _existing(argument)
    if path is not None:
        source = _with_tokenizer(path)
        return _from_path(argument, source) if isinstance(source, Path) else resolve(source)
    name, separator, rest = argument.partition("=")
    if separator:
        if not name or not rest:
            raise VocabkitError(f"{quote(argument)}: expected NAME=TOKENIZER")
        found = resolve(rest)
        return dataclasses.replace(found, vocabulary=dataclasses.replace(found.vocabulary, name=name), above=())
    entries = catalog()
    if argument.lower() in entries:
        return _from_catalog(entries[argument.lower()])
    if hub_id(argument):
        return _from_hub(argument)
    advice = near_names(argument.lower())
    raise VocabkitError(f"{quote(argument)} not found: not a file, catalog name or hub id (owner/name); {advice}")


def near_names(name: str) -> str:
    """Advice for a name that the catalog lacks: names like it, or the hub id of a family that it does not ship."""
    family = next((hub for known, hub in _tables()["elsewhere"].items() if name.startswith(known)), None)
    otherwise = f"on the hub as {family}" if family else "`vocabkit catalog` lists the names"
    return otherwise if family else did_you_mean(name, catalog(), otherwise)


def resolve_again(
    origin: str, fingerprint: str, folder: Path, given_roles: Mapping[str, str] | None = None
) -> Resolved | None:
    """The vocabulary that has this fingerprint with `given_roles`, at `origin` (see `Vocabulary.origin`), or None.

    Origins come out of files that anyone may have written: the network is never asked, paths are relative to the
    current folder or to `folder`, only plain files and folders are opened, and what has another fingerprint is dropped.
    """
    found = []
    with suppress(VocabkitError, OSError, ValueError):
        if origin.startswith("hub:"):
            found.append(_from_hub(origin.removeprefix("hub:"), cached=True))
    for path in _origins(origin, folder):
        with suppress(VocabkitError, OSError, ValueError):
            found.append(resolve_path(path))
    for each in found:
        with suppress(VocabkitError):  # it may lack a token that has a role
            if with_roles(each.vocabulary, given_roles or {}).fingerprint == fingerprint:
                return each
    return None


def local_origin(origin: str | None, folder: Path) -> Path | None:
    """The file or folder at a local `origin`, whatever it holds now; None if there is none."""
    return next(iter(_origins(origin or "hub:", folder)), None)


def _origins(origin: str, folder: Path) -> list[Path]:
    if origin.startswith("hub:") or PurePath(origin).is_absolute() or PureWindowsPath(origin).anchor:
        return []
    with suppress(OSError, ValueError):
        return [path for base in (Path(), folder) if (path := base / origin).is_file() or path.is_dir()]
    return []


def resolve_path(path: Path) -> Resolved:
    """Return the vocabulary of a folder or file. Raises VocabkitError: not found, or it can't be read."""
    found = _existing(str(path))
    if found is None:
        raise VocabkitError(f"{path}: not found; give a tokenizer file or a folder that holds one")
    return _from_path(None, found)


def distinct_names(names: Sequence[str], above: Sequence[Sequence[str]]) -> list[str]:
    """`names` with those that occur twice made distinct: `models` in the folders `a` and `b` is `a-models`, `b-models`.

    Args:
        above: names of the folders above each, nearest first. The fewest that tell them apart are taken; a name
            without any, and what has the same folders, stays.
    """
    found = list(names)
    for depth in range(1, max(map(len, above), default=0) + 1):
        if len(set(found)) == len(found):
            break
        longer = ["-".join([*reversed(own[:depth]), name]) for name, own in zip(names, above, strict=True)]
        found = [new if names.count(name) > 1 else name for name, new in zip(names, longer, strict=True)]
    return found


def without_name(argument: str) -> str:
    """Return an argument of `resolve` without its `NAME=`."""
    return argument.partition("=")[2] if "=" in argument and not Path(argument).exists() else argument


def snapshot_path(name: str) -> Path:
    """Path of a shipped snapshot."""
    return shipped(f"{name}.arrow")


def shipped(file: str) -> Path:
    """Path of a file of data/: a snapshot, or an adapter."""
    spec = importlib.util.find_spec("vocabkit_data")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / file


def read_source(entry: Entry, path: Path) -> Vocabulary:
    """Read the source file of a catalog vocabulary, as for its snapshot.

    Raises VocabkitError: `path` isn't the file (by sha256) that the catalog names.
    """
    provenance = entry.provenance
    found = sha256(path)
    if found != provenance.sha256:
        raise VocabkitError(
            f"{path}: not the {provenance.file} of {provenance} that {entry.name} was made of (sha256 {found[:12]}…)"
        )
    if entry.family is not None:
        return tiktoken_bpe.read(path, entry.snapshot, entry.family)
    # a tokenizer serves models of many sizes: the table's size belongs to the models of the catalog
    vocabulary = dataclasses.replace(read(path, entry.snapshot), width=None, embedding_rows=None)
    return _with_special(vocabulary, entry.special)


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "catalog.toml").read_text("utf-8"))


def _entry(name: str, vocabulary: str, table: dict[str, Any]) -> Entry:
    provenance = Provenance(
        file=table["file"],
        sha256=table["sha256"],
        package=table["package"],
        version=table["version"],
        licence=table["licence"],
    )
    return Entry(
        name=name,
        snapshot=vocabulary,
        provenance=provenance,
        family=table.get("family"),
        hub=table.get("hub"),
        special=tuple(table.get("special", ())),
        added=tuple(table.get("added", ())),
        width=table.get("width"),
        embedding_rows=table.get("embedding_rows"),
        weights=table.get("weights"),
        tensor=table.get("tensor", Entry.tensor),
    )


def _with_special(vocabulary: Vocabulary, spellings: Sequence[str]) -> Vocabulary:
    """Mark the tokens of these spellings as special, and find their roles."""
    tokens = vocabulary.tokens.to_pylist()
    kinds = vocabulary.kinds.copy()
    kinds[[tokens.index(spelling.encode()) for spelling in spellings]] = Kind.SPECIAL
    special = {i: tokens[i].decode() for i in np.flatnonzero(kinds == Kind.SPECIAL).tolist()}
    found = MappingProxyType(roles(special, kinds, vocabulary.roles))
    return dataclasses.replace(vocabulary, kinds=kinds, roles=found)


def _with_added(vocabulary: Vocabulary, spellings: Sequence[str]) -> Vocabulary:
    """Append special tokens, with their roles."""
    if not spellings:
        return vocabulary
    ids = np.arange(len(vocabulary), len(vocabulary) + len(spellings), dtype=np.int32)
    kinds = np.append(vocabulary.kinds, np.full(len(ids), Kind.SPECIAL, np.uint8))
    named = dict(zip(ids.tolist(), spellings, strict=True))
    return dataclasses.replace(
        vocabulary,
        tokens=pa.concat_arrays([vocabulary.tokens, binary_array([spelling.encode() for spelling in spellings])]),
        kinds=kinds,
        canonical=np.append(vocabulary.canonical, ids),
        roles=MappingProxyType(roles(named, kinds, vocabulary.roles)),
        segmentation=partial(_longer_rules, vocabulary, len(ids)),
    )


def _longer_rules(vocabulary: Vocabulary, more: int) -> Rules:
    rules = load_rules(vocabulary)
    assert rules is not None  # each snapshot of the catalog has some
    return dataclasses.replace(rules, priority=np.append(rules.priority, np.full(more, np.nan, np.float32)))


def _existing(argument: str) -> Path | None:
    try:
        path = Path(argument).expanduser()
        return path if argument and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for a path, a folder that may not be read, an unknown ~user
        return None


def _with_tokenizer(path: Path) -> Path | str:
    """Return `path`, or the LLM of LoRA weights that were saved without a tokenizer: its folder, or its name."""
    seen: list[Path] = []
    while path.is_dir() and is_lora(path) and not holds_tokenizer(path) and path not in seen:
        seen.append(path)
        base = without_name(lora_base(path))
        found = _existing(base)
        if found is None:
            return base
        path = found
    return path


def _from_path(argument: str | None, path: Path) -> Resolved:
    is_name = argument is not None and argument.lower() in catalog()
    clash = f"; a path goes before the catalog name {argument}" if is_name else ""
    try:
        file = tokenizer_file(path) if path.is_dir() else path
        vocabulary = read(path)
    except VocabkitError as error:
        raise VocabkitError(f"{error}{clash}") from error
    above = [folder.name for folder in (file.parent.resolve() / file.name).parents if folder.name]
    if above[:1] == [vocabulary.name]:  # named after its folder
        above = above[1:]
    vocabulary = dataclasses.replace(vocabulary, origin=_relative(path))
    return Resolved(vocabulary, f"local file {file}{clash}", file, tuple(above))


def _relative(path: Path) -> str | None:
    """`path` from the current folder; None if that is on another drive of Windows."""
    try:
        return Path(os.path.relpath(path)).as_posix()
    except ValueError:
        return None


def _from_catalog(entry: Entry) -> Resolved:
    path = snapshot_path(entry.snapshot)
    vocabulary = snapshot.read(path, entry.name, check=False)  # tests/tokenizer/test_shipped_snapshots.py does
    vocabulary = _with_added(vocabulary, entry.added)
    if entry.embedding_rows is not None:
        vocabulary = dataclasses.replace(vocabulary, width=entry.width, embedding_rows=entry.embedding_rows)
    return Resolved(vocabulary, f"catalog, snapshot {entry.snapshot} made from {entry.provenance}", path)


def _from_hub(name: str, *, cached: bool = False) -> Resolved:
    """The tokenizer of a hub repository: its tokenizer files only, never weights. `cached`: without the network."""
    repository = Repository(name)
    repository.reachable = not cached
    owner_and_name = repository.id.repository
    try:
        for file in FOLDER_FILES:
            path = repository.file(file)
            if path is None:
                continue
            for name_beside in files_beside(file):
                repository.file(name_beside)
            commit = path.parents[file.count("/")].name  # as huggingface_hub lays out its cache
            how = f"Hugging Face hub, {owner_and_name}/{file} at {commit[:7]}"
            owner, own_name = owner_and_name.split("/")
            vocabulary = dataclasses.replace(read(path, own_name), origin=f"hub:{name}")
            return Resolved(vocabulary, how, path, (owner,))
        looked = f"looked for {', '.join(FOLDER_FILES)}"
        if repository.reachable:
            raise VocabkitError(f"{name}: no tokenizer in this hub repository ({looked})")
        raise VocabkitError(f"{name}: no such path, none in the cache, and {why_unreachable()}")
    except VocabkitError as error:
        raise VocabkitError(f"{error}{_same_in_catalog(owner_and_name)}") from error


def _same_in_catalog(repository: str) -> str:
    """Name the catalog entry of a hub repository, or of the model that it is a variant or a copy of."""
    known = [(entry.hub, entry.name) for entry in catalog().values() if entry.hub]
    for hub, name in known:
        if hub == repository:
            return f"; the catalog has its tokenizer: {name}"
    for hub, name in known:
        if _model_name(hub) == _model_name(repository):
            return f"; the catalog has the tokenizer of {hub}: {name}"
    return ""


def _model_name(repository: str) -> str:
    """The name of a model without its owner, and without what marks its base or instruct version."""
    name = repository.rpartition("/")[2].lower().removeprefix("meta-")
    return _VARIANT.sub("", name)


_VARIANT = re.compile(r"(-(base|chat|instruct|it|pt|hf|bnb|gguf|awq|gptq|int4|int8|fp8|4bit|8bit|unsloth|\d{4}))+$")
