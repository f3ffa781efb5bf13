"""Pictures through models into files: decoded ahead by threads, in batches, and taken up where a run was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from vocabkit.data import BrokenImage, Picture
from vocabkit.data.decoding import ahead, decoding_threads
from vocabkit.errors import VocabkitError
from vocabkit.inference.models import Models, Pending, Wanted, starter
from vocabkit.inference.result_files import ResultFolder, Results
from vocabkit.inference.stopwatch import Profile, Stopwatch
from vocabkit.vision import VisionEncoder

_AHEAD = 3
"""Batches that are decoded before they are needed."""
_NAMED = 5
"""Captions and broken pictures that a report shows."""


@dataclass(frozen=True)
class Inferred:
    """What a run did."""

    pictures: int
    """That were given."""
    present: int
    """Of these: have results from before."""
    computed: int
    broken: int
    """Are missing or can't be decoded."""
    first_broken: tuple[str, ...]
    """What is wrong with the first few, a line each."""
    first_captions: Mapping[str, str]
    """Of the first few that were computed, if asked for."""
    per_second: float
    """Pictures that were computed, by wall time."""
    profile: Profile


def infer(
    models: Models,
    wanted: Wanted,
    pictures: Iterable[Picture],
    folder: ResultFolder,
    *,
    batch: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> Inferred:
    """Compute what `wanted` says of those `pictures` that `folder` lacks. Killed at any moment, the next call goes on.

    Missing and broken pictures are left out; the next call tries them again. Equal calls on one machine write equal
    bytes, however often they were interrupted; another `batch` can change the last bits of numbers.

    Args:
        models: on their device.
        pictures: with different keys.
        progress: called with the number of pictures that are done.

    Raises VocabkitError: what does not fit together, a folder of other results, no picture that can be used, can't
    write.
    """
    watch = Stopwatch(models.device)
    start = starter(models, wanted, watch)
    counts, shard = _Counts(progress), list[_Started]()
    with decoding_threads() as threads, _Writer(folder, watch) as writer:
        prepared = ahead(_work(models.encoder, pictures, folder, batch, threads, counts), _AHEAD)
        for done in ahead((_started(each, start, watch) for each in prepared), 1):  # a GPU is given the next one first
            done.wait()
            counts.add(done)
            shard.append(done)
            if done.batch.ends_shard:
                writer.write(done.batch.shard, shard)
                shard = []
    if len(counts.broken) == counts.pictures:
        first = next(iter(counts.broken.values()), "there are none")
        raise VocabkitError(f"none of {counts.pictures} pictures can be used; the first: {first}")
    folder.finish(counts.shards, counts.pictures - len(counts.broken), counts.broken)
    profile = watch.read()
    return Inferred(
        counts.pictures,
        counts.present,
        counts.computed,
        len(counts.broken),
        tuple(islice(counts.broken.values(), _NAMED)),
        counts.captions,
        counts.computed / profile.seconds,
        profile,
    )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pictures of one shard, and the pixels that threads make of them."""

    shard: int
    ends_shard: bool
    pictures: Sequence[Picture]
    pixels: Sequence[Future[Tensor]]


@dataclass(eq=False)
class _Started:
    """A batch that the device computes, or has computed."""

    batch: _Batch
    images: list[str]
    """Keys of its pictures that are not broken."""
    broken: dict[str, str]
    pending: Pending | None
    """None if all are broken."""
    results: Results | None = None

    def wait(self) -> None:
        """Until its results are here."""
        if self.pending is not None:
            self.results = self.pending.results(self.images)


@dataclass(eq=False)
class _Counts:
    """Of the run so far."""

    progress: Callable[[int], None]
    shards: int = 0
    pictures: int = 0
    present: int = 0
    computed: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)

    def add(self, done: _Started) -> None:
        """Count a batch."""
        self.computed += len(done.images)
        self.broken |= done.broken
        captions = zip(done.images, (done.results and done.results.captions) or (), strict=False)
        self.captions |= dict(islice(captions, _NAMED - len(self.captions)))
        self._show()

    def skip(self, block: Sequence[Picture], broken: Mapping[str, str]) -> None:
        """Count a shard that is there."""
        self.present += len(block) - len(broken)
        self.broken |= broken
        self._show()

    def _show(self) -> None:
        self.progress(self.present + self.computed + len(self.broken))


def _work(
    encoder: VisionEncoder,
    pictures: Iterable[Picture],
    folder: ResultFolder,
    batch: int,
    threads: ThreadPoolExecutor,
    counts: _Counts,
) -> Iterator[_Batch]:
    """The batches of all shards that are not there."""
    remaining = iter(pictures)
    while block := list(islice(remaining, folder.per_shard)):
        number = counts.shards
        counts.shards, counts.pictures = number + 1, counts.pictures + len(block)
        broken = folder.broken_of(number, [picture.key for picture in block])
        if broken is not None and not any(_is_usable(encoder, each) for each in block if each.key in broken):
            counts.skip(block, broken)
            continue
        for at in range(0, len(block), batch):
            part = block[at : at + batch]
            pixels = [threads.submit(encoder.pixels_of, picture) for picture in part]
            yield _Batch(number, at + batch >= len(block), part, pixels)


def _started(batch: _Batch, start: Callable[[Tensor], Pending], watch: Stopwatch) -> _Started:
    images, pixels = [], []
    broken: dict[str, str] = {}
    with watch.host("waiting for pictures"):
        for picture, prepared in zip(batch.pictures, batch.pixels, strict=True):
            try:
                pixels.append(prepared.result())
                images.append(picture.key)
            except BrokenImage as error:
                broken[picture.key] = str(error)
    return _Started(batch, images, broken, start(torch.stack(pixels)) if pixels else None)


def _is_usable(encoder: VisionEncoder, picture: Picture) -> bool:
    try:
        encoder.pixels_of(picture)
    except BrokenImage:
        return False
    return True


class _Writer:
    """Writes shards in a thread of its own, one at a time."""

    def __init__(self, folder: ResultFolder, watch: Stopwatch) -> None:
        self._folder, self._watch = folder, watch
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def write(self, number: int, shard: Sequence[_Started]) -> None:
        """Begin with a shard when the one before is done."""
        with self._watch.host("writing"):
            self._wait()
        self._last = self._thread.submit(_write, self._folder, number, shard)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._watch.host("writing"), self._thread:
            if kind is None:
                self._wait()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def _write(folder: ResultFolder, number: int, shard: Sequence[_Started]) -> None:
    broken = {key: reason for each in shard for key, reason in each.broken.items()}
    folder.write(number, Results.joined([each.results for each in shard if each.results is not None]), broken)
