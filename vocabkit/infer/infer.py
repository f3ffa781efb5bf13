"""The pictures that people name: files, folders, LLaVA JSON and Hugging Face data sets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabkit.adapter.model import Adapter, load_adapter
from vocabkit.adapter.partners import llm_ids
from vocabkit.data.llava import is_llava
from vocabkit.data.pictures import BrokenImage, ahead, decoding_threads, each_once
from vocabkit.data.samples import Picture
from vocabkit.data.sources import Columns, pictures_of
from vocabkit.errors import VocabkitError
from vocabkit.hub import is_hub_id
from vocabkit.infer.batch import Models, Pending, Profile, Stopwatch, Wanted, starter
from vocabkit.infer.result_files import ResultFolder, Results
from vocabkit.llm.devices import check_dtype, open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.transfer.target import open_target
from vocabkit.vision.encoder import VisionEncoder
from vocabkit.vision.open_vision import encoder_of

_IMAGE = re.compile(r".*\.(bmp|gif|jpe?g|png|p[bgpn]m|tiff?|webp)", re.IGNORECASE)


def open_inputs(
    inputs: Sequence[str], *, images: Path | None = None, split: str = "train", image_column: str = "image"
) -> tuple[Iterable[Picture], int | None]:
    """The pictures of all `inputs` in order, each once, and how many; None if there is a data set, which is streamed.

    The key of a picture is its path as it was given, in a folder the folder's path and its own; of LLaVA's records,
    what stands under `image`; of a data set, `SPLIT/ROW/NUMBER`.

    Args:
        inputs: each an image file; a folder, whose images are taken with those in the folders below, in the order of
            their paths; LLaVA's JSON or JSONL, plain or packed; or, if it is a folder without images or a hub id, a
            data set of `datasets`.
        images: folder of the images in LLaVA's files. By default that of each file.
        split, image_column: of data sets.

    Raises VocabkitError: none of these, damaged records, or two pictures with the same key.
    """
    found = [_pictures(source, images, split, image_column) for source in inputs]
    once = each_once(chain.from_iterable(found), "give them in two runs")
    if all(isinstance(each, list) for each in found):
        pictures = list(once)
        return pictures, len(pictures)
    return once, None


def _pictures(source: str, images: Path | None, split: str, image_column: str) -> Iterable[Picture]:
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _IMAGE.fullmatch(file.name) and file.is_file())
        if files:
            return [Picture(_key(file), file) for file in files]
    elif is_llava(path):
        return pictures_of(source, images)
    elif path.exists() or _IMAGE.fullmatch(path.name):  # one that is missing is counted as broken
        return [Picture(_key(path), path)]
    elif not is_hub_id(source):
        raise VocabkitError(f"{source}: no such file or folder, and no hub id of a data set (owner/name)")
    return pictures_of(source, columns=Columns(split, image_column))


def _key(path: Path) -> str:
    """The path, with what is not UTF-8 in it escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


# MERGED: Pictures through models into files: decoded ahead by threads, in batches, and taken up where a run was stopped.

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


# MERGED: Inference from files: an adapter, models and pictures by name.


@dataclass(frozen=True)
class Run:
    """What was computed, with what."""

    folder: Path
    device: str
    settings: dict[str, Any]
    """That the results depend on."""
    report: Inferred


def infer_files(
    adapter: str,
    inputs: Sequence[str],
    out: Path,
    wanted: Wanted,
    *,
    llm: str | None = None,
    vision: str | None = None,
    keep_cls: bool | None = None,
    pool: tuple[int, int] | None = None,
    images: Path | None = None,
    split: str = "train",
    image_column: str = "image",
    batch: int = 32,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    progress: Callable[[str, int, int | None], None] = lambda what, done, total: None,
) -> Run:
    """`infer` with an adapter, an LLM and a vision encoder by name. Inputs are those of `open_inputs`.

    Args:
        adapter: a checkpoint folder, a `.pt` file or a hub id.
        llm: NAME=SOURCE; needed for captions, and for the visual tokens of an adapter that was not transferred.
        vision, keep_cls, pool: as for `encoder_of`; by default what the adapter was trained with.
        device: as torch names it, or `auto`.
        dtype: of weights, visual tokens and arithmetic; by default bfloat16 on a GPU and float32 on a CPU.

    Raises VocabkitError: anything that can't be found or does not fit.
    """
    place = open_device(device)
    chosen = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    check_dtype(place, chosen)
    pictures, total = open_inputs(inputs, images=images, split=split, image_column=image_column)
    connector = load_adapter(adapter)
    reader = _reader(connector, wanted, llm, chosen)
    settings: dict[str, Any] = {
        "adapter": _fingerprint(connector, reader),
        "llm": reader.name,
        "dtype": str(chosen).partition(".")[2],
    }
    encoder = encoder_of(connector, vision, keep_cls=keep_cls, pool=pool, device=place, dtype=chosen)
    models = Models(encoder, connector, reader.rows, reader.llm, place, chosen).moved()
    settings |= encoder.info
    del settings["name"]  # of the encoder, which may have moved
    settings["vision"] = settings.pop("fingerprint")
    settings |= dataclasses.asdict(wanted)
    values = encoder.tokens * (reader.width if wanted.visual_tokens else 0)
    folder = ResultFolder(
        out,
        settings,
        picture_bytes=values * chosen.itemsize + encoder.tokens * 16 * (wanted.top or 0) + 1,
        shared=connector.shared,
        llm=reader.name,
    )
    report = infer(
        models, wanted, pictures, folder, batch=batch, progress=lambda done: progress(encoder.name, done, total)
    )
    return Run(out, str(place), settings, report)


@dataclass(frozen=True, eq=False)
class _Reader:
    """The LLM that visual tokens are for."""

    name: str
    """Of its column in the adapter's shared vocabulary, if there is one."""
    width: int
    """D; 0 where it does not matter."""
    rows: Tensor | None = None
    """(V, D) its embeddings of the shared vocabulary, for an adapter without."""
    llm: LLM | None = None
    """For captions."""


def _reader(connector: Adapter, wanted: Wanted, llm: str | None, dtype: torch.dtype) -> _Reader:
    own = connector.llm
    if wanted.captions is not None:
        if llm is None:
            raise VocabkitError("--captions needs the LLM that writes them: add --llm NAME=SOURCE")
        loaded = load_llm(llm, dtype)
        rows = LVLM(loaded, connector).embeddings
        return _Reader(own if rows is None else loaded.vocabulary.name, loaded.width, rows, loaded)
    if connector.shared is None or connector.embeddings is not None:
        if llm is not None:
            raise VocabkitError(f"--llm: the adapter gives visual tokens of {own} without it; it is for --captions")
        return _Reader(own, connector.llm_width or 0)
    if llm is None:
        if wanted.visual_tokens:
            raise VocabkitError(
                "visual tokens of this adapter are sums of embeddings of an LLM: add --llm NAME=SOURCE, or transfer it"
            )
        return _Reader(own, 0)
    target, _ = open_target(llm)
    ids = llm_ids(connector.shared, target.vocabulary, llm)
    rows = target.embeddings.rows(ids, tokens=target.vocabulary)
    return _Reader(target.vocabulary.name, target.embeddings.width, rows)


def _fingerprint(connector: Adapter, reader: _Reader) -> str:
    """Of all numbers that visual tokens depend on, and of the embeddings of the LLM that writes captions."""
    tensors = {}
    if reader.rows is not None:
        tensors["rows"] = reader.rows
    if reader.llm is not None:
        tensors["llm"] = reader.llm.model.get_input_embeddings().weight
    return connector.fingerprint(tensors)
