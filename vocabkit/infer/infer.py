"""Inference: run pictures through a vision encoder, an adapter and an LLM, and write a folder of results.

From top to bottom: the options, `infer`, what it opens, the loop that keeps decoding, device and disk busy at the same
time, one batch through the models, and the stopwatch.

Sizes: B pictures, N patches each, Dv width of the features, D width of the LLM, V rows of the shared vocabulary.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vocabkit.adapter.config import AspectRatio
from vocabkit.adapter.model import Adapter, LangBridgeAdapter, load_adapter
from vocabkit.adapter.partners import check_llm
from vocabkit.adapter.words import READING, Word, check_words, image_words
from vocabkit.data.partition import WHOLE, Partition
from vocabkit.data.pictures import (
    IMAGE,
    BrokenImage,
    ahead,
    at_least_one,
    content_digest,
    decoding_threads,
    each_once,
    fetched,
    path_key,
    unchanged,
)
from vocabkit.data.samples import PLACEHOLDER, Picture, Turn
from vocabkit.data.sources import Columns, image_files, is_data, pictures_of
from vocabkit.data.urls import UrlFile, each_file, is_url
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.hub import is_hub_id
from vocabkit.infer.result_files import ResultFolder, Results, Stored
from vocabkit.llm.devices import check_dtype, open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.lvlm import LVLM, write_answers
from vocabkit.llm.prompts import check_question, encode_question, parse_template
from vocabkit.transfer.transfer import open_target
from vocabkit.vision.encoder import VisionEncoder, encoder_of
from vocabkit.vision.tiles import Tiles, visual_tokens

DECODED_AHEAD = 3
"""Batches decoded ahead: enough to hide a slow picture, and a bound on memory."""
_NAMED = 5
"""Captions and broken pictures that a report lists."""
Stage = Literal["waiting for pictures", "vision encoder", "adapter", "LLM", "writing"]
_ON_DEVICE: tuple[Stage, ...] = ("vision encoder", "adapter", "LLM")


@dataclass(frozen=True)
class InferOptions:
    """What to compute of each picture, and with what."""

    visual_tokens: bool | None = None
    """Write the visual tokens. By default only if nothing else is."""
    prompt_embeds: bool = False
    """Write the visual tokens for a chat request to vLLM, see `vocabkit.serving.pictures.prompt_embeds`."""
    top: int | None = None
    """K: write the tokens with the K largest coefficients of each patch."""
    words: bool = False
    """Write the words of each picture, and a prompt that tells an LLM how to read them."""
    captions: bool = False
    """Have the LLM caption the pictures."""
    question: str | None = None
    """The prompt for a caption, with one placeholder for the picture; not for the plain template. By default the
    adapter's own, if it has one, else the picture alone."""
    template: str | None = None
    """plain, completion or chat; by default completion if there is a prompt, else plain."""
    max_new_tokens: int = 64
    """Maximum tokens of a caption."""
    llm: str | None = None
    """NAME=SOURCE of the LLM; needed for captions, and for visual tokens of an adapter that was not transferred."""
    other_weights: bool = False
    """Accept an LLM that was tuned since the adapter was made for it."""
    vision: str | None = None
    """The vision model, as for `open_vision`. This and the next three are by default as in training."""
    keep_cls: bool | None = None
    """Whether to keep class and register tokens."""
    pool: tuple[int, int] | None = None
    """(rows, columns) to pool the grid of patches to."""
    image_aspect_ratio: AspectRatio | None = None
    images: str | Path | None = None
    """Folder of the images of LLaVA files. By default the folder of each file."""
    split: str = "train"
    """Dataset split."""
    image_column: str = "image"
    """Dataset column with the images."""
    partition: Partition = WHOLE
    """The part of the pictures to compute into `out`, which all parts share."""
    batch: int = 32
    """Pictures per batch. Another size can change the last bits of the results."""
    device: str = "auto"
    """Name of a torch device; auto is cuda if available, else cpu."""
    dtype: str = "auto"
    """Dtype of weights, visual tokens and arithmetic: float32, bfloat16, or auto (bfloat16 on a GPU, else float32)."""

    @property
    def writes_visual_tokens(self) -> bool:
        """Whether the results hold visual tokens."""
        others = self.prompt_embeds or self.top or self.words or self.captions
        return self.visual_tokens if self.visual_tokens is not None else not others

    @property
    def makes_visual_tokens(self) -> bool:
        """Whether the results hold them in any form."""
        return self.writes_visual_tokens or self.prompt_embeds


@dataclass(frozen=True)
class Report:
    """Counts and times of a run."""

    pictures: int
    """Pictures in the inputs."""
    present: int
    """Pictures with results from an earlier run."""
    computed: int
    """Pictures with results from this run."""
    broken: int
    """Pictures that are missing or can't be decoded."""
    left: int
    """Pictures of other parts, which other processes have not computed yet."""
    first_broken: tuple[str, ...]
    """What is wrong with the first few of these, one line each."""
    first_captions: Mapping[str, str]
    """Captions of the first few computed pictures, by key."""
    first_words: Mapping[str, Sequence[Word]]
    """Words of the first few computed pictures, by key."""
    reading: str | None
    """What tells an LLM how to read words, in place of `<image>`; None without words."""
    per_second: float
    """Computed pictures per second of wall time."""
    profile: Profile


@dataclass(frozen=True)
class Inference:
    """A finished run."""

    folder: str
    device: str
    settings: dict[str, Any]
    """Everything that the results depend on."""
    report: Report


def infer(
    adapter: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    progress: Progress = no_progress,
    **options: Any,
) -> Inference:
    """Compute visual tokens, largest coefficients, words or captions: `infer("moved", ["photos/"], "seen", top=3)`.

    Safe to kill: the next run resumes and writes the same bytes. Broken and missing pictures are left out, and tried
    again by the next run. Several processes may each compute a part.

    Args:
        adapter: a checkpoint folder, a `.pt` file or a hub id.
        inputs: as for `open_inputs`.
        out: folder for the results, in the format of `result_files`, or its URL in an object store.
        progress: reports what is loaded, then pictures.
        options: the fields of `vocabkit.infer.infer.InferOptions`, by keyword.

    Raises:
        VocabkitError: something is not found, parts do not fit together, `out` holds results of other settings, or no
            picture is usable.
    """
    wanted = InferOptions(**options)
    if wanted.batch < 1:
        raise VocabkitError(f"`batch` {wanted.batch}: must be at least 1")
    device = open_device(wanted.device)
    dtype = open_dtype(wanted.dtype, device)
    pictures, total = open_inputs(inputs, images=wanted.images, split=wanted.split, image_column=wanted.image_column)
    connector = load_adapter(adapter)
    wanted, reader, encoder = open_parts(connector, wanted, device, dtype, progress)
    settings = _settings(wanted, connector, reader, encoder, dtype)
    shown = connector.config.visual_tokens(encoder.largest)
    values = shown * reader.width * (wanted.writes_visual_tokens + 2 * wanted.prompt_embeds)
    folder = ResultFolder(
        out,
        settings,
        picture_bytes=values * dtype.itemsize + encoder.largest * 16 * (wanted.top or 0) + 1,
        shared=connector.shared,
        llm=reader.name,
        reading=connector.config.prompt,
    )
    with folder.kept():
        models = Models(encoder, connector, reader.rows, reader.llm, device, dtype).on_device()
        progress("pictures", 0, total)
        report = run(models, wanted, pictures, folder, lambda done: progress("pictures", done, total))
    return Inference(str(out), str(device), settings, report)


def open_parts(
    connector: Adapter,
    wanted: InferOptions,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = no_progress,
) -> tuple[InferOptions, Reader, VisionEncoder]:
    """Open what `wanted` needs beside the adapter; in the options, the prompt is filled in.

    Raises VocabkitError: as `infer`.
    """
    if wanted.captions:
        wanted = with_prompt(wanted, connector.config.prompt)
    if wanted.words:
        check_words(connector)
    if wanted.captions:
        progress(f"loading {wanted.llm}", 0, None)
    reader = _open_reader(connector, wanted, dtype)
    encoder = encoder_of(
        connector,
        wanted.vision,
        keep_cls=wanted.keep_cls,
        pool=wanted.pool,
        image_aspect_ratio=wanted.image_aspect_ratio,
        tiles=True,
        device=device,
        dtype=dtype,
    )
    return wanted, reader, encoder


# ---- what is named: pictures, dtype, LLM -------------------------------------------------------------------------


def open_inputs(
    inputs: Sequence[str | Path],
    *,
    images: str | Path | None = None,
    split: str = "train",
    image_column: str = "image",
) -> tuple[Iterable[Picture], int | None]:
    """Return the pictures of all `inputs` in order, each once, and their number; None if it is not known yet.

    The key of a picture is its path or URL as given; in a folder, the folder's and its own; in LLaVA records, the value
    of `image`; in a tar, `NAME.tar/` and its own name; in a Parquet file or dataset, `NAME.parquet/ROW/NUMBER` or
    `SPLIT/ROW/NUMBER`.

    Args:
        inputs: each an image; a folder, searched recursively for images, sorted by path; LLaVA JSON or JSONL, plain or
            compressed; a tar; a Parquet file; or a dataset: a folder without images, or a hub id. All but LLaVA files
            and datasets may be URLs of fsspec, and patterns: shard-{000..010}.tar, *.parquet.
        images: folder of the images of LLaVA files. By default the folder of each file.
        split, image_column: for datasets.

    Raises VocabkitError: an input that is none of these, damaged records, or two pictures with the same key.
    """
    if isinstance(inputs, str | Path):
        raise TypeError(f"`inputs` is {type(inputs).__name__}; expected a list of images, folders, files or datasets")
    folder = None if images is None else Path(images)
    found = [_pictures(each, folder, split, image_column) for source in inputs for each in each_file(str(source))]
    each = each_once(chain.from_iterable(found), "give them in two runs, each with an `out` of its own")
    once = at_least_one(each, inputs)
    if all(isinstance(each, list) for each in found):
        pictures = list(once)
        return pictures, len(pictures)
    return once, None


def _pictures(source: str, images: Path | None, split: str, image_column: str) -> Iterable[Picture]:
    path = Path(source)
    if path.is_dir():
        if files := image_files(path):
            return [Picture(path_key(file), file) for file in files]
    elif IMAGE.fullmatch(path.name) and not is_url(source):
        return [Picture(path_key(path), path)]  # a missing image counts as broken
    elif not is_url(source) and not is_data(source):
        if path.exists():
            return [Picture(path_key(path), path)]
        if not is_hub_id(source):
            raise VocabkitError(f"{source}: not found: not a file, a folder or the hub id of a dataset (owner/name)")
    return pictures_of(source, images, Columns(split, image_column))


def open_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    if name not in ("float32", "bfloat16"):
        raise VocabkitError(f"`dtype` {name}: must be auto, float32 or bfloat16")
    dtype: torch.dtype = getattr(torch, name)
    check_dtype(device, dtype)
    return dtype


def with_prompt(wanted: InferOptions, own: str | None) -> InferOptions:
    """Fill in the question and template of captions for an adapter whose prompt is `own`."""
    question = wanted.question or (own if wanted.template != "plain" else None) or PLACEHOLDER
    template = parse_template(wanted.template or ("plain" if question == PLACEHOLDER else "completion"))
    check_question(question, template)
    return replace(wanted, question=question, template=template)


@dataclass(frozen=True, eq=False)
class Reader:
    """The LLM that the visual tokens are for."""

    name: str
    """Its column in the adapter's shared vocabulary, if there is one."""
    width: int
    """D; 0 if no visual tokens are computed."""
    rows: Tensor | None = None
    """(V, D) its embeddings of the shared vocabulary, for an adapter without rows of its own."""
    llm: LLM | None = None
    """For captions."""


def _open_reader(connector: Adapter, wanted: InferOptions, dtype: torch.dtype) -> Reader:
    own, llm = connector.llm, wanted.llm
    for name in ("question", "template"):
        if getattr(wanted, name) is not None and not wanted.captions:
            raise VocabkitError(f"`{name}`: only for captions; also give `captions`")
    if wanted.captions:
        if llm is None:
            raise VocabkitError("`captions`: also give `llm` as NAME=SOURCE, the LLM that writes them")
        loaded = load_llm(llm, dtype)
        rows = LVLM(loaded, connector, other_weights=wanted.other_weights).embeddings
        return Reader(own if rows is None else loaded.vocabulary.name, loaded.width, rows, loaded)
    if connector.shared is None or connector.embeddings is not None:
        if llm is not None:
            raise VocabkitError(f"`llm`: only for captions; the adapter itself gives visual tokens of {own}")
        return Reader(own, connector.llm_width or 0)
    if llm is None:
        if wanted.makes_visual_tokens:
            raise VocabkitError(
                "visual tokens of this adapter are sums of an LLM's embeddings: give `llm` as NAME=SOURCE, or transfer "
                "the adapter first"
            )
        return Reader(own, 0)
    target = open_target(llm)
    check_llm(connector.config, connector.shared, target.table(llm), other_weights=wanted.other_weights)
    spellings = connector.shared.spellings_for(target.vocabulary.name)
    rows, _ = target.embeddings.composed(spellings, tokens=target.vocabulary)
    return Reader(target.vocabulary.name, target.embeddings.width, rows)


def _settings(
    wanted: InferOptions, connector: Adapter, reader: Reader, encoder: VisionEncoder, dtype: torch.dtype
) -> dict[str, Any]:
    """Return everything that the results depend on: a run resumes only if all of it is the same."""
    tensors = {}
    if reader.rows is not None:
        tensors["rows"] = reader.rows
    if reader.llm is not None:  # embeddings only: hashing all weights of an LLM takes too long
        tensors["llm"] = reader.llm.model.get_input_embeddings().weight
    vision = dict(encoder.info)
    del vision["name"]  # a path that may have changed since, unlike the fingerprint
    captions = None
    if wanted.captions:
        captions = {name: getattr(wanted, name) for name in ("question", "template", "max_new_tokens")}
    return {
        "adapter": connector.fingerprint(tensors),
        "llm": reader.name,
        "dtype": str(dtype).partition(".")[2],
        **{key: value for key, value in vision.items() if key != "fingerprint"},
        "vision": vision["fingerprint"],
        "visual_tokens": wanted.writes_visual_tokens,
        "top": wanted.top,
        **{name: True for name in ("words", "prompt_embeds") if getattr(wanted, name)},
        "captions": captions,
    }


# ---- the loop: decode ahead, compute, write behind ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Models:
    """All models of a run, on one device and in one dtype."""

    encoder: VisionEncoder
    connector: Adapter
    rows: Tensor | None
    """(V, D) embeddings of the LLM, for a LangBridgeAdapter without rows of its own."""
    llm: LLM | None
    """For captions."""
    device: torch.device
    dtype: torch.dtype

    def on_device(self) -> Models:
        """The same models, moved to `device` and, but for the LLM, to `dtype`."""
        rows = None if self.rows is None else self.rows.to(self.device, self.dtype)
        if self.llm is not None:
            self.llm.model.to(self.device)
        return dataclasses.replace(self, connector=self.connector.to(self.device, self.dtype), rows=rows)


def run(
    models: Models,
    wanted: InferOptions,
    pictures: Iterable[Picture],
    folder: ResultFolder,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Compute the results that `folder` lacks, with models that are on their device.

    Args:
        pictures: with distinct keys.
        progress: called with the number of pictures done.

    Raises VocabkitError: as `infer`.
    """
    watch = Stopwatch(models.device)
    step = make_step(models, wanted, watch) if models.encoder.sizes is None else make_tile_step(models, wanted, watch)
    counts, shard = _Counts(progress), list[Started]()
    with decoding_threads() as threads, _Writer(folder, watch) as writer:
        prepared = ahead(
            _batches(models.encoder, pictures, folder, wanted.partition, wanted.batch, threads, counts), DECODED_AHEAD
        )
        # one step ahead: a GPU gets the next batch before this thread waits for the results of the last
        for done in ahead((start(each, step, watch) for each in prepared), 1):
            done.wait()
            counts.add(done)
            shard.append(done)
            if done.batch.ends_shard:
                writer.write(done.batch.shard, shard)
                shard = []
    for number, (keys, first) in list(counts.left.items()):  # others may have ended meanwhile
        if (stored := folder.stored(number, keys)) is not None:
            if first is not None and stored.contents.get(keys[0], first) != first:
                raise folder.changed(keys[0])
            del counts.left[number]
            counts.skip(keys, stored.broken)
    left = sum(len(keys) for keys, _ in counts.left.values())
    if len(counts.broken) == counts.pictures:
        folder.discard(counts.shards)
        first = next(iter(counts.broken.values()), "there are none")
        raise VocabkitError(f"none of {counts.pictures} pictures can be used; the first: {first}")
    if not left:
        folder.finish(counts.shards, counts.pictures - len(counts.broken), counts.broken)
    profile = watch.read()
    return Report(
        counts.pictures,
        counts.present,
        counts.computed,
        len(counts.broken),
        left,
        tuple(islice(counts.broken.values(), _NAMED)),
        counts.captions,
        counts.words,
        (models.connector.config.prompt or READING) if wanted.words else None,
        counts.computed / profile.seconds,
        profile,
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one shard, and their pixels, which threads are preparing."""

    shard: int
    ends_shard: bool
    pictures: Sequence[Picture]
    prepared: Sequence[Future[Prepared]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture ready for the models."""

    pixels: Tensor | Tiles
    content: str | None = None
    """Its `content_digest`."""


def _batches(
    encoder: VisionEncoder,
    pictures: Iterable[Picture],
    folder: ResultFolder,
    partition: Partition,
    batch: int,
    threads: ThreadPoolExecutor,
    counts: _Counts,
) -> Iterator[Batch]:
    """Yield the batches of shards of `partition` that are missing, or have a broken picture that was repaired since."""
    remaining = iter(pictures)
    while block := list(islice(remaining, folder.per_shard)):
        number = counts.shards
        counts.shards, counts.pictures = number + 1, counts.pictures + len(block)
        keys, mine = [picture.key for picture in block], partition.has(number)
        stored = folder.stored(number, keys)
        if stored is None and not mine:
            counts.left[number] = keys, _content(block[0])
            continue
        if stored is not None:
            _check_unchanged(folder, stored, block, mine, threads)
            if not (mine and any(_is_usable(encoder, each) for each in block if each.key in stored.broken)):
                counts.skip(keys, stored.broken)
                continue
        for at in range(0, len(block), batch):
            part = block[at : at + batch]
            yield Batch(
                number, at + batch >= len(block), part, [threads.submit(prepare, encoder, each) for each in part]
            )


def _check_unchanged(
    folder: ResultFolder, stored: Stored, block: Sequence[Picture], mine: bool, threads: ThreadPoolExecutor
) -> None:
    """Raise VocabkitError if a picture is another one than there are results of, under the same key.

    Each process reads all pictures of its own part, and the first of each block of the others. By URL, a picture takes
    too long for that; the key is the whole URL.
    """
    known = [picture for picture in block if picture.key in stored.contents]
    asked = [each for each in known if mine and not isinstance(each.source, UrlFile)] or known[:1]
    same = threads.map(unchanged, asked, [stored.contents[each.key] for each in asked])
    for picture, passed in zip(asked, same, strict=True):
        if not passed:
            raise folder.changed(picture.key)


def _content(picture: Picture) -> str | None:
    try:
        return content_digest(picture.source)
    except VocabkitError:
        return None


def prepare(encoder: VisionEncoder, picture: Picture) -> Prepared:
    """Raises BrokenImage: missing or damaged."""
    picture = fetched(picture)
    return Prepared(pixels_of(encoder, picture), content_digest(picture.source))


def pixels_of(encoder: VisionEncoder, picture: Picture) -> Tensor | Tiles:
    return encoder.pixels_of(picture) if encoder.sizes is None else encoder.tiles_of(picture)


def _is_usable(encoder: VisionEncoder, picture: Picture) -> bool:
    try:
        pixels_of(encoder, picture)
    except BrokenImage:
        return False
    return True


@dataclass(eq=False)
class Started:
    """A batch on the device, and its results once they have arrived."""

    batch: Batch
    images: list[str]
    """Keys of the pictures that are not broken."""
    contents: dict[str, str]
    """Their digests."""
    broken: dict[str, str]
    pending: Pending | None
    """None if all are broken."""
    results: Results | None = None

    def wait(self) -> None:
        """Wait for the results."""
        if self.pending is not None:
            self.results = self.pending.results(self.images)


def start(batch: Batch, step: Callable[[Any], Pending], watch: Stopwatch) -> Started:
    images: list[str] = []
    pixels: list[Any] = []
    contents: dict[str, str] = {}
    broken: dict[str, str] = {}
    with watch.host("waiting for pictures"):
        for picture, asked in zip(batch.pictures, batch.prepared, strict=True):
            try:
                prepared = asked.result()
            except BrokenImage as error:
                broken[picture.key] = str(error)
                continue
            pixels.append(prepared.pixels)
            images.append(picture.key)
            contents[picture.key] = prepared.content or ""
    if not pixels:
        return Started(batch, images, contents, broken, None)
    return Started(
        batch, images, contents, broken, step(torch.stack(pixels) if isinstance(pixels[0], Tensor) else pixels)
    )


@dataclass(eq=False)
class _Counts:
    """What has been done so far."""

    progress: Callable[[int], None]
    shards: int = 0
    pictures: int = 0
    present: int = 0
    computed: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    left: dict[int, tuple[list[str], str | None]] = field(default_factory=dict)
    """Shards of other parts that are not there: their keys, and the `content_digest` of the first picture."""
    captions: dict[str, str] = field(default_factory=dict)
    words: dict[str, Sequence[Word]] = field(default_factory=dict)

    def add(self, done: Started) -> None:
        """Count a batch."""
        self.computed += len(done.images)
        self.broken |= done.broken
        captions = zip(done.images, (done.results and done.results.captions) or (), strict=False)
        self.captions |= dict(islice(captions, _NAMED - len(self.captions)))
        words = zip(done.images, (done.results and done.results.words) or (), strict=False)
        self.words |= dict(islice(words, _NAMED - len(self.words)))
        self._show()

    def skip(self, keys: Sequence[str], broken: Mapping[str, str]) -> None:
        """Count a shard of an earlier run, or of another process."""
        self.present += len(keys) - len(broken)
        self.broken |= broken
        self._show()

    def _show(self) -> None:
        self.progress(self.present + self.computed + len(self.broken))


class _Writer:
    """Writes shards in a thread, one at a time."""

    def __init__(self, folder: ResultFolder, watch: Stopwatch) -> None:
        self._folder, self._watch = folder, watch
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def write(self, number: int, shard: Sequence[Started]) -> None:
        """Start writing a shard once the previous one is written, so that at most two are in memory."""
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


def _write(folder: ResultFolder, number: int, shard: Sequence[Started]) -> None:
    broken = {key: reason for each in shard for key, reason in each.broken.items()}
    contents = {key: digest for each in shard for key, digest in each.contents.items()}
    results = Results.joined([each.results for each in shard if each.results is not None])
    folder.write(number, results, broken, contents)


# ---- one batch through the models --------------------------------------------------------------------------------


def make_step(models: Models, wanted: InferOptions, watch: Stopwatch) -> Callable[[Tensor], Pending]:
    """Return a function from pixels (B, 3, H, W) on the CPU to results. On a GPU it waits for captions only.

    Raises VocabkitError: models that do not fit together, or `top` for an adapter without coefficients.
    """
    connector, k = models.connector, wanted.top
    mixer = connector if isinstance(connector, LangBridgeAdapter) else None
    _check_top(mixer, k)
    caption = _make_captioner(models, wanted) if wanted.captions else None

    @torch.inference_mode()
    def step(pixels: Tensor) -> Pending:
        if models.device.type == "cuda":
            pixels = pixels.pin_memory().to(models.device, non_blocking=True)
        with watch.models("vision encoder"):
            features = models.encoder(pixels).to(models.dtype)  # (B, 3, H, W) -> (B, N, Dv)
        tensors = {}
        with watch.models("adapter"):
            if wanted.makes_visual_tokens or caption:
                rows = () if mixer is None else (models.rows,)
                tensors["visual_tokens"] = connector(features, *rows)  # (B, N, Dv) -> (B, N, D)
            if k is not None and mixer is not None:
                coefficients, top = mixer.top_coefficients(features, k)  # (B, N, K)
                tensors |= {"coefficient": coefficients.float(), "row": top.int()}
            words = _words(mixer, features) if wanted.words else None
            if wanted.words and mixer is not None and mixer.config.spelled is not None:
                tensors["visual_ids"] = mixer.spelled_ids(features)  # (B, P)
        captions = None
        if caption is not None:
            with watch.models("LLM"):
                captions = caption(tensors["visual_tokens"])
        if not wanted.makes_visual_tokens:
            tensors.pop("visual_tokens", None)
        return Pending(tensors, captions, words)

    return step


def make_tile_step(models: Models, wanted: InferOptions, watch: Stopwatch) -> Callable[[Sequence[Tiles]], Pending]:
    """Return what `make_step` does, for pictures in tiles, whose numbers of visual tokens differ."""
    connector, k = models.connector, wanted.top
    mixer = connector if isinstance(connector, LangBridgeAdapter) else None
    _check_top(mixer, k)
    caption = _make_captioner(models, wanted) if wanted.captions else None
    rows = () if mixer is None else (models.rows,)

    @torch.inference_mode()
    def step(pictures: Sequence[Tiles]) -> Pending:
        layouts = [picture.layout for picture in pictures]
        with watch.models("vision encoder"):
            shown = models.encoder(torch.cat([picture.pixels for picture in pictures])).to(models.dtype)
            parts = shown.split([len(picture.pixels) for picture in pictures])  # (T, P, Dv) each
            features = [each.remaining(part) for each, part in zip(layouts, parts, strict=True)]  # (L, Dv) each
        tensors: dict[str, Tensor] = {}
        visual: list[Tensor] = []
        with watch.models("adapter"):
            if wanted.makes_visual_tokens or caption:
                visual = visual_tokens(
                    lambda patches: connector(patches, *rows), features, layouts, connector.image_newline
                )
            if k is not None and mixer is not None:
                coefficients, top = mixer.top_coefficients(torch.cat(features), k)  # (L, K)
                counts = torch.tensor([each.patches for each in layouts])
                tensors |= {"coefficient": coefficients.float(), "row": top.int(), "patches": counts}
            words = _words(mixer, features) if wanted.words else None
        captions = None
        if caption is not None:
            with watch.models("LLM"):
                captions = caption(visual)
        if wanted.makes_visual_tokens:
            tensors |= {"visual_tokens": torch.cat(visual), "lengths": torch.tensor([each.tokens for each in layouts])}
        return Pending(tensors, captions, words)

    return step


def _words(mixer: LangBridgeAdapter | None, features: Iterable[Tensor]) -> list[Sequence[Word]]:
    """The words of each picture, of (N, Dv) features."""
    assert mixer is not None
    return [image_words(mixer, each) for each in features]


def _check_top(mixer: LangBridgeAdapter | None, k: int | None) -> None:
    if k is not None and mixer is None:
        raise VocabkitError("`top`: an MLP projector has no coefficients; give an adapter with a shared vocabulary")
    if k is not None and mixer is not None and not 1 <= k <= mixer.config.rows:
        raise VocabkitError(f"`top` {k}: must be from 1 to {mixer.config.rows:,}, the rows of the adapter")


def _make_captioner(models: Models, wanted: InferOptions) -> Callable[[Tensor | Sequence[Tensor]], list[str]]:
    """Return a function from visual tokens, (B, N, D) or (N, D) for each picture, to a caption for each picture."""
    llm, question, template = models.llm, wanted.question, parse_template(wanted.template or "")
    assert llm is not None
    assert question is not None

    def caption(visual: Tensor | Sequence[Tensor]) -> list[str]:
        turns = [Turn(question, "")]
        questions = [encode_question(llm.tokenizer, turns, template, len(each)) for each in visual]
        joined = visual if isinstance(visual, Tensor) else torch.cat(list(visual))[None]  # (1, ΣN, D)
        return write_answers(llm, questions, joined, template=template, max_new_tokens=wanted.max_new_tokens)

    return caption


class Pending:
    """Results on their way from the device."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        captions: list[str] | None,
        words: Sequence[Sequence[Word]] | None = None,
    ) -> None:
        self._tensors = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        self._captions, self._words = captions, words
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def results(self, images: Sequence[str]) -> Results:
        """Wait for the results, of the pictures with these keys."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return Results(images, self._tensors, self._captions, self._words)


# ---- where the time goes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """Shares of the wall time of a run."""

    seconds: float
    """From the first picture to the last result on disk."""
    shares: dict[str, float]
    """Share by stage. On a CPU they add up to at most 1. On a GPU those of models are timed by the GPU, and overlap
    with the waiting and writing of this thread."""
    busy: float | None
    """Share of the time in which models kept the GPU busy, gaps between kernels of a stage included; None on a CPU."""


class Stopwatch:
    """Times the stages of a run on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._start = time.perf_counter()

    @contextmanager
    def host(self, stage: Stage) -> Iterator[None]:
        """Time what this thread waits for."""
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    @contextmanager
    def models(self, stage: Stage) -> Iterator[None]:
        """Time what the device computes. On a GPU, two events in its stream are timed, so that nothing has to wait."""
        if not self._cuda:
            with self.host(stage):
                yield
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._events.append((stage, begin, end))
        while self._events and self._events[0][2].query():
            self._count()

    def read(self) -> Profile:
        """Return the shares since the start."""
        if self._cuda:
            torch.cuda.synchronize()
        while self._events:
            self._count()
        seconds = time.perf_counter() - self._start
        shares = {stage: spent / seconds for stage, spent in self._seconds.items()}
        busy = sum(shares.get(stage, 0.0) for stage in _ON_DEVICE) if self._cuda else None
        return Profile(seconds, shares, busy)

    def _count(self) -> None:
        stage, begin, end = self._events.popleft()
        self._seconds[stage] += begin.elapsed_time(end) / 1000  # milliseconds to seconds
