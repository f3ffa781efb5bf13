"""Files of cached features.

A folder holds shards, `<hash>.safetensors`, and `index.json`, which is written last. A shard has the tensor `features`
(M, N, Dv) and, as JSON under `vocabkit` in its metadata: what made the features, a digest of the pixels of each row,
and for each key the digest of its picture, whose row may be in another shard. So keys with the same picture share a
row, and the shards alone say all that it takes to resume after an interruption: also a digest of each picture's file,
and which pictures are broken. Several processes may write shards. The one after which nothing is left writes the index.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.partners import EncoderInfo, check_encoder, unknown_encoder
from vocabkit.adapter.tensors import check_tensors
from vocabkit.data.shards import AGAIN, INDEX, ShardFolder
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading

FORMAT = "vocabkit-features/1"
SHARD_BYTES, SHARD_PICTURES = 2**27, 256
"""A shard is full with so many bytes of features or so many keys: the most work that an interruption can cost."""
_SHARD_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")


class FeatureInfo(EncoderInfo):
    """The encoder of the features in a folder, and how they are stored."""

    dtype: str
    """float16 or float32."""


class Index(msgspec.Struct, frozen=True):
    """index.json."""

    format: str
    encoder: FeatureInfo
    shards: list[str]
    keys: dict[str, tuple[int, int]]
    """Key -> number of its shard, row in it."""


class _Header(msgspec.Struct, frozen=True):
    """The metadata of a shard."""

    format: str
    encoder: FeatureInfo
    rows: list[str]
    keys: dict[str, str]
    contents: dict[str, str] = {}
    """Key -> `content_digest` of the picture; empty in shards of earlier versions."""
    broken: dict[str, str] = {}
    """Key -> what is wrong with the picture."""


_Parsed = TypeVar("_Parsed", Index, _Header)


class FeatureWriter:
    """The shards in a folder, and the rows of the next one."""

    def __init__(self, folder: str | Path, encoder: FeatureInfo) -> None:
        """Read the headers of the shards in the folder. Raises VocabkitError: see `cache_features`."""
        self._encoder = encoder
        # weights have a fingerprint, so the name does not matter: a model may have moved
        settings = {name: value for name, value in encoder.items() if name != "name"}
        self._folder = ShardFolder(folder, "features", settings, FORMAT)
        self.keys: dict[str, str] = {}
        """Key -> digest of its pixels."""
        self.contents: dict[str, str] = {}
        """Key -> digest of its file, where it is known."""
        self.broken: dict[str, str] = {}
        """Key -> what is wrong with the picture, which may have been repaired since."""
        self._shards: dict[str, list[str]] = {}
        """Name -> digests of its rows."""
        self._rows: set[str] = set()
        self._new_keys: dict[str, str] = {}
        self._new_contents: dict[str, str] = {}
        self._new_broken: dict[str, str] = {}
        self._new_rows: dict[str, Tensor] = {}
        self._bytes = 0
        self._read_shards()

    def kept(self) -> AbstractContextManager[None]:
        """Remove the folder if the work inside fails before anything is in it."""
        return self._folder.kept()

    def has(self, digest: str) -> bool:
        """Whether the picture with these pixels has features already."""
        return digest in self._rows or digest in self._new_rows

    def add(self, rows: dict[str, Tensor], keys: dict[str, str], contents: dict[str, str]) -> None:
        """Add features (N, Dv) by digest, and digests of pixels and files by key; a full shard is written."""
        self._new_rows |= rows
        self._new_keys |= keys
        self._new_contents |= contents
        self._bytes += sum(features.nbytes for features in rows.values())
        if self._bytes >= SHARD_BYTES or len(self._new_keys) >= SHARD_PICTURES:
            self._write_shard()

    def add_broken(self, key: str, reason: str) -> None:
        """Record a broken picture, so that other processes do not wait for it."""
        if key not in self.broken:
            self._new_broken[key] = reason

    def write_rest(self) -> None:
        """Write the last shard, and learn of those that other processes have written meanwhile."""
        if self._new_keys or self._new_broken:
            self._write_shard()
        self._read_shards()

    def finish(self) -> None:
        """Write the index, which is the same in whatever order the shards were written."""
        while True:
            names = sorted(self._shards)
            places: dict[str, tuple[int, int]] = {}
            for number, name in enumerate(names):
                for row, digest in enumerate(self._shards[name]):
                    places.setdefault(digest, (number, row))
            keys = {key: places[digest] for key, digest in sorted(self.keys.items())}
            self._folder.finish(msgspec.json.encode(Index(FORMAT, self._encoder, names, keys)))
            if not self._read_shards():  # else the index may have replaced that of a process that knew more
                return

    def _read_shards(self) -> bool:
        """Add the shards in the folder that are not known yet; return whether there were any."""
        known = set(self._shards)
        for name in self._folder.names(".safetensors"):
            if name not in known:
                header = self._read_header(name)
                self._folder.check(header.encoder)
                self._add_shard(name, header)
        return len(self._shards) > len(known)

    def _read_header(self, name: str) -> _Header:
        file = f"{self._folder.folder}/{name}"
        metadata = self._folder.tensors_metadata(name) if _SHARD_NAME.fullmatch(name) else {}
        if "vocabkit" not in metadata:
            raise VocabkitError(f"{file}: not written by `vocabkit features`; choose a folder of its own for features")
        return _parsed(file, metadata["vocabkit"], _Header)

    def _write_shard(self) -> None:
        digests = list(self._new_rows)
        made = _Header(FORMAT, self._encoder, digests, self._new_keys, self._new_contents, self._new_broken)
        header = msgspec.json.encode(made)
        shape, dtype = (0, self._encoder["tokens"], self._encoder["width"]), getattr(torch, self._encoder["dtype"])
        features = torch.stack(list(self._new_rows.values())) if digests else torch.empty(shape, dtype=dtype)
        name = hashlib.blake2b(header, digest_size=16).hexdigest()
        self._folder.write_tensors(name, {"features": features}, header.decode())
        self._add_shard(f"{name}.safetensors", made)
        self._new_rows, self._bytes = {}, 0
        self._new_keys, self._new_contents, self._new_broken = {}, {}, {}

    def _add_shard(self, name: str, header: _Header) -> None:
        self._shards[name] = header.rows
        self._rows |= set(header.rows)
        self.keys |= header.keys
        self.contents |= header.contents
        self.broken |= header.broken


def read_index(folder: Path) -> Index:
    """Read and check index.json. Raises VocabkitError: missing, damaged, or of another format."""
    file = folder / INDEX
    if not file.exists():
        raise VocabkitError(f"{folder}: no {INDEX}: no cached features, or unfinished; run `vocabkit features` (again)")
    with reading(file):
        index = _parsed(file, file.read_bytes(), Index)
    if not all(_SHARD_NAME.fullmatch(name) for name in index.shards):
        raise VocabkitError(f"{file}: damaged: it names files that are not shards")
    if not all(0 <= shard < len(index.shards) and row >= 0 for shard, row in index.keys.values()):
        raise VocabkitError(f"{file}: damaged: a key is in no shard")
    return index


def read_shard(file: Path, encoder: FeatureInfo) -> Tensor:
    """Return (M, N, Dv), memory-mapped. Raises VocabkitError: missing, damaged, or not of the shape of `encoder`."""
    features = _stored(file)
    shape = (encoder["tokens"], encoder["width"])
    if features is None or features.shape[1:] != shape or str(features.dtype) != f"torch.{encoder['dtype']}":
        raise VocabkitError(f"{file}: holds no {encoder['dtype']} features of {shape[0]} x {shape[1]}, as {INDEX} says")
    return features


def read_features(path: str | Path, *, config: AdapterConfig | None = None, limit: int = 4096) -> Tensor:
    """Return (N, Dv) patch features, N <= `limit`, evenly spaced.

    Args:
        path: a safetensors file with the tensor `features`, whose leading dimensions are flattened; or a folder of
            `vocabkit features`, from whose first pictures they are taken.
        config: of the adapter that they are for. A folder tells its encoder, which is compared, a file only its width.

    Raises VocabkitError: missing, damaged, no such tensor, of another encoder, or numbers that are not finite.
    """
    path = Path(path)
    if config is not None and path.is_dir():
        check_encoder(config, read_index(path).encoder, path)
    elif config is not None:
        unknown_encoder(config, path)
    found: list[Tensor] = []
    for features in _tensors_of(path):
        if config is not None and features.shape[-1] != config.vision_width:
            raise VocabkitError(
                f"{path}: has features of width {features.shape[-1]}, but the adapter takes {config.vision_width}; "
                "give those of the vision model that it was trained with"
            )
        patches = features.reshape(-1, features.shape[-1])
        lacking = limit - sum(map(len, found))
        found.append(patches[:: max(1, len(patches) // max(1, lacking))][:lacking])
        if lacking <= len(patches):
            break
    if not any(map(len, found)):
        raise VocabkitError(f"{path}: holds no features of any picture")
    patches = torch.cat(found)
    check_tensors(path, {"features": patches}, advice="compute them again")
    return patches


def _tensors_of(path: Path) -> Iterator[Tensor]:
    """(..., Dv) of each shard of a folder, or of a file, memory-mapped."""
    if path.is_dir():
        index = read_index(path)
        yield from (read_shard(path / name, index.encoder) for name in index.shards)
        return
    features = _stored(path, "is it a safetensors file?")
    if features is None or features.ndim < 2:
        raise VocabkitError(f"{path}: no tensor 'features' of patch features (N, Dv) in it")
    yield features


def _stored(file: Path, advice: str = AGAIN) -> Tensor | None:
    """The tensor `features` of a safetensors file, memory-mapped; None if it has none."""
    with reading(file):
        try:
            return safetensors.torch.load_file(file).get("features")
        except SafetensorError as error:
            raise _damaged(file, error, advice) from error


def _parsed(file: str | Path, content: str | bytes, kind: type[_Parsed]) -> _Parsed:
    try:
        found = msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(file, error) from error
    if found.format != FORMAT:
        raise VocabkitError(f"{file}: format {quote(found.format)}; this vocabkit reads {FORMAT}")
    return found


def _damaged(file: str | Path, error: Exception, advice: str = AGAIN) -> VocabkitError:
    return VocabkitError(f"{file}: damaged ({quote(str(error), 80)}); {advice}")
