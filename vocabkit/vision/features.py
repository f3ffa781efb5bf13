"""Cached patch features of a frozen vision encoder, in a folder (see `feature_files`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, KeysView, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from vocabkit.adapter.config import AspectRatio
from vocabkit.adapter.partners import EncoderInfo
from vocabkit.data.partition import WHOLE, Partition
from vocabkit.data.pictures import (
    BrokenImage,
    ahead,
    at_least_one,
    content_digest,
    decoding_threads,
    each_once,
    fetched,
    unchanged,
)
from vocabkit.data.samples import Picture
from vocabkit.data.shards import INDEX
from vocabkit.data.sources import Columns, pictures_of
from vocabkit.data.urls import UrlFile
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.vision.encoder import LAYER, VisionEncoder, open_vision
from vocabkit.vision.feature_files import (
    SHARD_PICTURES,
    FeatureInfo,
    FeatureWriter,
    Index,
    read_index,
    read_shard,
)
from vocabkit.vision.tiles import Layout

_NAMED = 5
"""Broken pictures that a report names."""


@dataclass(frozen=True)
class FeatureOptions:
    """Settings of features; see `open_vision`."""

    layer: int = LAYER
    keep_cls: bool = False
    pool: tuple[int, int] | None = None
    image_aspect_ratio: AspectRatio = "square"
    dtype: torch.dtype = torch.float16
    """float16 or float32: how features are stored."""
    device: str = "auto"
    """A GPU computes in float16, a CPU in float32."""
    partition: Partition = WHOLE
    """The part of the pictures to compute into the folder, which all parts share."""


@dataclass(frozen=True)
class CacheReport:
    """Summary of a call of `cache_features`."""

    pictures: int
    """Different keys."""
    cached: int
    """Were in the folder before."""
    computed: int
    """Went through the encoder."""
    equal: int
    """Have the same pixels as the picture of another key."""
    broken: int
    """Are missing or can't be decoded."""
    left: int
    """Are of other parts, and were not in the folder."""
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
        self.layouts: dict[str, Layout] = {}
        """Empty: no picture is in tiles."""
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
        """Return (N, Dv). Raises VocabkitError: not in the cache, or its shard is missing or damaged."""
        if key not in self._index.keys:
            raise VocabkitError(f"{self.folder}: no features of {quote(key)}; run `vocabkit features` on its data")
        shard, row = self._index.keys[key]
        if shard not in self._shards:
            self._shards[shard] = read_shard(self.folder / self._index.shards[shard], self.encoder)
        if row >= len(self._shards[shard]):
            raise VocabkitError(f"{self.folder / INDEX}: damaged: {quote(key)} is beyond its shard")
        return self._shards[shard][row]


def open_features(folder: str | Path) -> Features:
    """Open the features that `cache_features` wrote to `folder`, on a disk.

    Raises VocabkitError: no features, unfinished, damaged, or another format.
    """
    features = Features(Path(folder), read_index(Path(folder)))
    for key in islice(features.keys, 1):
        features[key]  # checks the sizes that the index claims, before anyone allocates memory by them
    return features


def cache_files(
    data: Sequence[str],
    vision: str,
    out: str | Path,
    options: FeatureOptions = FeatureOptions(),
    *,
    images: Path | None = None,
    columns: Columns = Columns(),
    progress: Progress = no_progress,
) -> tuple[EncoderInfo, CacheReport]:
    """Run `cache_features` on the pictures of `data` with an encoder by name.

    Args:
        data: each as for `samples_of`, whose `images` and `columns` these are.
        vision: as for `open_vision`.
        out: the folder to write or to resume, or its URL in an object store.

    Raises VocabkitError: see `pictures_of`, `open_vision` and `cache_features`.
    """
    found = [pictures_of(source, images, columns) for source in data]
    device = open_device(options.device)
    encoder = open_vision(
        vision,
        layer=options.layer,
        keep_cls=options.keep_cls,
        pool=options.pool,
        image_aspect_ratio=options.image_aspect_ratio,
        device=device,
        dtype=torch.float16 if device.type == "cuda" else torch.float32,
    )
    pictures: Iterable[Picture] = at_least_one(chain.from_iterable(found), data)
    if all(isinstance(each, list) for each in found):
        pictures = list(pictures)
    report = cache_features(encoder, pictures, out, dtype=options.dtype, partition=options.partition, progress=progress)
    return encoder.info, report


def cache_features(
    encoder: VisionEncoder,
    pictures: Iterable[Picture],
    folder: str | Path,
    *,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float16,
    partition: Partition = WHOLE,
    progress: Progress = no_progress,
) -> CacheReport:
    """Compute the features of the `pictures` that `folder` lacks. Safe to kill; the next call resumes.

    A picture in the folder whose file is another one now is decoded, to check that its pixels are the same. Files are
    compared for all pictures of this part, and for the first of each block of the others; by URL, and with shards of
    earlier versions, only the first, second, fourth, eighth... picture is opened. Missing and broken pictures are left
    out; the next call tries them again.

    Args:
        dtype: float16 or float32: how features are stored.
        partition: as in `FeatureOptions`.
        progress: counts the pictures that are done.

    Raises VocabkitError: the folder holds features of another encoder or setting, or something else; a key of two
    pictures, or whose picture has changed; features that are not finite; no usable picture; can't write.
    """
    total = len({picture.key for picture in pictures}) if isinstance(pictures, list) else None
    writer = FeatureWriter(folder, FeatureInfo(**encoder.info, dtype=str(dtype).removeprefix("torch.")))
    counts: Counter[str] = Counter()
    broken: list[str] = []
    batch: dict[str, Tensor] = {}  # digest -> (3, H, W)
    keys: dict[str, str] = {}  # key -> digest of its pixels, since the last batch
    contents: dict[str, str] = {}  # key -> digest of its file
    left: set[str] = set()  # keys of other parts

    progress(encoder.name, 0, total)

    def missing() -> Iterator[Picture]:
        for at, picture in enumerate(each_once(pictures, "cache their data in two folders")):
            mine = partition.has(at // SHARD_PICTURES)
            if picture.key not in writer.keys:
                if mine:
                    yield picture
                else:
                    counts["left"] += 1
                    left.add(picture.key)
                continue
            counts["cached"] += 1
            content = writer.contents.get(picture.key)
            if content is None or isinstance(picture.source, UrlFile):
                if counts["cached"].bit_count() == 1:  # powers of two: few, spread over all
                    yield picture
            elif (mine or at % SHARD_PICTURES == 0) and not unchanged(picture, content):
                yield picture

    def compute() -> None:
        rows: dict[str, Tensor] = {}
        if batch:
            rows = dict(zip(batch, encoder(torch.stack(list(batch.values()))).to("cpu", dtype), strict=True))
        for key, digest in keys.items():
            if digest in rows and not rows[digest].isfinite().all():
                raise VocabkitError(f"{key}: its features are not finite as {dtype}; take float32, or another layer")
        writer.add(rows, dict(keys), dict(contents))
        for each in (batch, keys, contents):
            each.clear()
        progress(encoder.name, counts.total(), total)

    def check_usable() -> None:
        if counts["broken"] == (count := counts.total()):
            why = (
                f"none of {count} pictures can be used; the first: {broken[0]}" if broken else "no pictures in the data"
            )
            raise VocabkitError(f"{folder}: no features to compute: {why}")

    with writer.kept(), decoding_threads() as threads:
        asked = ((picture, threads.submit(_prepare, encoder, picture)) for picture in missing())
        for picture, prepared in ahead(asked, 2 * batch_size):
            known = writer.keys.get(picture.key)
            try:
                pixels, digest, content = prepared.result()
            except BrokenImage as error:
                if known is None:
                    counts["broken"] += 1
                    broken = [*broken, str(error)][:_NAMED]
                    writer.add_broken(picture.key, str(error))
                continue
            if known is not None:
                if known != digest:
                    raise VocabkitError(
                        f"{folder}: {quote(picture.key)} has changed since its features were computed; "
                        "choose another folder, or remove this one"
                    )
                continue
            keys[picture.key] = digest
            if content is not None:
                contents[picture.key] = content
            if digest in batch or writer.has(digest):
                counts["equal"] += 1
            else:
                counts["computed"] += 1
                batch[digest] = pixels
            if len(batch) == batch_size or len(keys) == SHARD_PICTURES:
                compute()
        compute()
        check_usable()
        writer.write_rest()
    for key in sorted(left):  # others may have ended meanwhile
        if key in writer.keys or key in writer.broken:
            counts["left"] -= 1
            counts["cached" if key in writer.keys else "broken"] += 1
            if key not in writer.keys:
                broken = [*broken, writer.broken[key]][:_NAMED]
    check_usable()
    if not counts["left"]:
        writer.finish()
    return CacheReport(
        counts.total(),
        cached=counts["cached"],
        computed=counts["computed"],
        equal=counts["equal"],
        broken=counts["broken"],
        left=counts["left"],
        first_broken=tuple(broken),
    )


def _prepare(encoder: VisionEncoder, picture: Picture) -> tuple[Tensor, str, str | None]:
    """Return (3, H, W), their digest and that of the file. Raises BrokenImage: missing or damaged."""
    picture = fetched(picture)
    pixels = encoder.pixels_of(picture).contiguous()
    return pixels, hashlib.blake2b(pixels.numpy().data, digest_size=16).hexdigest(), content_digest(picture.source)
