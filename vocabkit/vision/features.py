"""Patch features of a frozen vision encoder, computed once and kept in a folder (see `feature_files`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, KeysView
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from vocabkit.data.pictures import BrokenImage, ahead, decoding_threads, each_once
from vocabkit.data.samples import Picture
from vocabkit.data.shards import INDEX
from vocabkit.errors import VocabkitError, quote
from vocabkit.vision.encoder import VisionEncoder
from vocabkit.vision.feature_files import (
    SHARD_PICTURES,
    FeatureInfo,
    FeatureWriter,
    Index,
    read_index,
    read_shard,
)

_NAMED = 5
"""Broken pictures that a report names."""


@dataclass(frozen=True)
class CacheReport:
    """What became of the pictures that a cache was asked to hold."""

    pictures: int
    """Different keys."""
    cached: int
    """Of these: were there before."""
    computed: int
    """Went through the encoder."""
    equal: int
    """Are, as the encoder sees them, the picture of another key."""
    broken: int
    """Are missing or can't be decoded."""
    first_broken: tuple[str, ...]
    """What is wrong with the first few, a line each."""


class Features:
    """A folder of cached features: `features[key]` is (N, Dv), memory-mapped, in the stored dtype."""

    def __init__(self, folder: Path, index: Index) -> None:
        """See `open_features`."""
        self.folder, self._index = folder, index
        self.encoder = index.encoder
        self.tokens = index.encoder["tokens"]
        """N."""
        self.width = index.encoder["width"]
        """Dv."""
        self._shards: dict[int, Tensor] = {}

    @property
    def keys(self) -> KeysView[str]:
        """The keys of the pictures."""
        return self._index.keys.keys()

    def __len__(self) -> int:
        return len(self._index.keys)

    def __contains__(self, key: str) -> bool:
        return key in self._index.keys

    def __getitem__(self, key: str) -> Tensor:
        """(N, Dv). Raises VocabkitError: not in the cache, or its shard is missing or damaged."""
        if key not in self._index.keys:
            raise VocabkitError(f"{self.folder}: no features of {quote(key)}; run `vocabkit features` on its data")
        shard, row = self._index.keys[key]
        if shard not in self._shards:
            self._shards[shard] = read_shard(self.folder / self._index.shards[shard], self.encoder)
        if row >= len(self._shards[shard]):
            raise VocabkitError(f"{self.folder / INDEX}: damaged: {quote(key)} is beyond its shard")
        return self._shards[shard][row]


def open_features(folder: Path) -> Features:
    """The features that `cache_features` left in `folder`.

    Raises VocabkitError: none there, not finished, damaged, or of another format.
    """
    features = Features(folder, read_index(folder))
    for key in islice(features.keys, 1):
        features[key]  # whether the index tells the shards' sizes, before anyone takes memory by them
    return features


def cache_features(
    encoder: VisionEncoder,
    pictures: Iterable[Picture],
    folder: Path,
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float16,
    progress: Callable[[int], None] | None = None,
) -> CacheReport:
    """Compute the features of those `pictures` that `folder` lacks. Killed at any moment, the next call goes on.

    A key stands for its picture: of those that are in the folder, only the first, second, fourth, eighth... are opened
    to see whether they are still the same. Missing and broken pictures are left out; the next call tries them again.

    Args:
        dtype: float16 or float32: how features are stored.
        progress: called with the number of pictures that are done.

    Raises VocabkitError: the folder holds features of another encoder or setting, or something else; a key of two
    pictures, or of another one than before; features that are not finite; no picture that can be used; can't write.
    """
    writer = FeatureWriter(folder, FeatureInfo(**encoder.info, dtype=str(dtype).removeprefix("torch.")))
    counts: Counter[str] = Counter()
    broken: list[str] = []
    batch: dict[str, Tensor] = {}  # digest -> (3, H, W)
    keys: dict[str, str] = {}  # key -> digest, since the last batch

    def missing() -> Iterator[Picture]:
        for picture in each_once(pictures, "cache their data in two folders"):
            there = picture.key in writer.keys
            counts["cached"] += there
            if not there or counts["cached"].bit_count() == 1:  # a few are checked
                yield picture

    def compute() -> None:
        rows: dict[str, Tensor] = {}
        if batch:
            rows = dict(zip(batch, encoder(torch.stack(list(batch.values()))).to("cpu", dtype), strict=True))
        for key, digest in keys.items():
            if digest in rows and not rows[digest].isfinite().all():
                raise VocabkitError(f"{key}: its features are not finite as {dtype}; take float32, or another layer")
        writer.add(rows, keys)
        batch.clear()
        keys.clear()
        if progress:
            progress(counts.total())

    with decoding_threads() as threads:
        asked = ((picture, threads.submit(_prepare, encoder, picture)) for picture in missing())
        for picture, prepared in ahead(asked, 2 * batch_size):
            known = writer.keys.get(picture.key)
            try:
                pixels, digest = prepared.result()
            except BrokenImage as error:
                if known is None:
                    counts["broken"] += 1
                    broken = [*broken, str(error)][:_NAMED]
                continue
            if known is not None:
                if known != digest:
                    raise VocabkitError(
                        f"{folder}: {quote(picture.key)} is another picture now than when its features were computed; "
                        "choose another folder, or remove this one"
                    )
                continue
            keys[picture.key] = digest
            if digest in batch or writer.has(digest):
                counts["equal"] += 1
            else:
                counts["computed"] += 1
                batch[digest] = pixels
            if len(batch) == batch_size or len(keys) == SHARD_PICTURES:
                compute()
        compute()
    total = counts.total()
    if counts["broken"] == total:
        why = f"none of {total} pictures can be used; the first: {broken[0]}" if broken else "no pictures in the data"
        raise VocabkitError(f"{folder}: no features to compute: {why}")
    writer.finish()
    return CacheReport(total, counts["cached"], counts["computed"], counts["equal"], counts["broken"], tuple(broken))


def _prepare(encoder: VisionEncoder, picture: Picture) -> tuple[Tensor, str]:
    """(3, H, W) and their digest. Raises BrokenImage: no such pixels."""
    pixels = encoder.pixels_of(picture).contiguous()
    return pixels, hashlib.blake2b(pixels.numpy().data, digest_size=16).hexdigest()
