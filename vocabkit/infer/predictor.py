"""Inference on batches of a table: a callable for `map_batches` of Ray Data and `map` of Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL.Image import Image

from vocabkit.adapter.model import load_adapter
from vocabkit.data.partition import WHOLE
from vocabkit.data.pictures import ImageFolder, Unusable, ahead, decoding_threads, stored_source
from vocabkit.data.samples import Picture, Source
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.memory import keep_freed_memory
from vocabkit.infer.infer import (
    DECODED_AHEAD,
    Batch,
    InferOptions,
    Models,
    Prepared,
    Stopwatch,
    make_step,
    make_tile_step,
    open_dtype,
    open_parts,
    pixels_of,
    start,
)
from vocabkit.infer.result_files import Lookup, Results, each_visual_tokens, result_table
from vocabkit.llm.devices import open_device

ERROR = "error"
"""The column that says what is wrong with a picture; empty if nothing is."""


class Predictor:
    """Computes what `infer` does, as columns beside the pictures of a batch.

        from vocabkit.infer.predictor import Predictor

        # Ray Data: each actor loads the models once
        ds.map_batches(Predictor, fn_constructor_kwargs={"adapter": "moved", "words": True},
                       compute=ray.data.ActorPoolStrategy(size=2), batch_size=64)
        # datasets: in one process, or in several with num_proc
        ds.map(Predictor("moved", words=True), batched=True, batch_size=64)

    A batch maps names of columns to values; the column `image_column` holds a picture in each row: bytes of a file,
    {bytes, path}, an opened picture of Pillow, pixels (H, W, 3) of uint8, or the name of a file in the folder `images`.
    The result has a row for each of them. Its columns are those of the tables of `result_files` without `image`, then
    `visual_tokens` (N, D) float32 if they are asked for, and `error`. In the row of a broken picture, `error` says what
    is wrong with it, the visual tokens are zeros, since a column of tensors has no nulls, and the others are None.

    Ray Data keeps only what is returned, so a plain dict comes back with its other columns, but without the pictures.
    datasets adds the columns to its own.

    Only the arguments are pickled. The models are loaded by the first batch, in the process that gets it.
    """

    def __init__(self, adapter: str | Path, **options: Any) -> None:
        """Keep what to load.

        Args:
            adapter: a checkpoint folder, a `.pt` file or a hub id, which each worker can open.
            options: the fields of `vocabkit.infer.infer.InferOptions`, by keyword, without `split` and `partition`.

        Raises VocabkitError: an option that is for files.
        """
        wanted = InferOptions(**options)
        if wanted.partition != WHOLE or wanted.split != InferOptions.split:
            raise VocabkitError("`partition`, `split`: not for batches, which are whatever the caller hands over")
        if wanted.batch < 1:
            raise VocabkitError(f"`batch` {wanted.batch}: must be at least 1")
        self._adapter, self._wanted, self._made = str(adapter), wanted, _made(Path(adapter))
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, and what the cache of datasets knows a call by."""
        return {**self.__dict__, "_opened": None}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns. Raises VocabkitError: as `infer`, no such column, or one that the results would hide."""
        column = self._wanted.image_column
        if isinstance(batch, pa.Table) or not isinstance(batch, Mapping):
            raise TypeError(
                f"a batch is {type(batch).__name__}; expected columns by name: batch_format='numpy' in Ray, "
                "with_format(None) in datasets"
            )
        if column not in batch:
            names = quote(", ".join(batch), 120)
            raise VocabkitError(f"no column {quote(column)} in the batch; it has {names}: name one as `image_column`")
        if batch[column] is None or isinstance(batch[column], dict | str | bytes | Image):
            raise TypeError(f"column {quote(column)} is a single picture; expected a batch: map with batched=True")
        if self._opened is None:
            self._opened = _Opened(self._adapter, self._wanted)
        found = self._opened.columns(batch[column])
        if hidden := [name for name in found if name in batch]:
            raise VocabkitError(f"column {quote(hidden[0])} is in the data already; rename it first")
        kept = {name: values for name, values in batch.items() if name != column} if type(batch) is dict else {}
        return kept | found


def _made(adapter: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the adapter's files: another adapter in their place is another call for a cache."""
    files = sorted(adapter.iterdir()) if adapter.is_dir() else [adapter] if adapter.is_file() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


class _Opened:
    """The models, on their device."""

    def __init__(self, adapter: str, wanted: InferOptions) -> None:
        keep_freed_memory()  # half of the time on a CPU, see docs/maintainers/experiments.md
        device = open_device(wanted.device)
        dtype = open_dtype(wanted.dtype, device)
        connector = load_adapter(adapter)
        self._wanted, reader, self._encoder = open_parts(connector, wanted, device, dtype)
        self._lookup = Lookup.of(connector.shared, reader.name, connector.config.prompt)
        self._folder = None if wanted.images is None else ImageFolder(Path(wanted.images))
        self._watch = Stopwatch(device)
        models = Models(self._encoder, connector, reader.rows, reader.llm, device, dtype).on_device()
        make: Any = make_step if self._encoder.sizes is None else make_tile_step
        self._step = make(models, self._wanted, self._watch)
        self._names = _names(wanted, spelled=getattr(connector.config, "spelled", None) is not None)
        shown = 0 if self._encoder.sizes is not None else connector.config.visual_tokens(self._encoder.largest)
        self._no_tokens = np.zeros((shown, reader.width), np.float32)
        """Of a broken picture."""

    def columns(self, values: Sequence[Any]) -> dict[str, list[Any]]:
        """The results of pictures, as they stand in the column of a table."""
        pictures = [Picture(f"row {number}", self._source(value)) for number, value in enumerate(values)]
        errors, parts = dict[str, str](), list[Results]()
        with decoding_threads() as threads:
            for batch in ahead(self._batches(pictures, threads), DECODED_AHEAD):
                done = start(batch, self._step, self._watch)
                done.wait()
                errors |= done.broken
                if done.results is not None:
                    parts.append(done.results)
        results = Results.joined(parts)
        table = result_table(results, self._lookup, prompt_embeds=self._wanted.prompt_embeds)
        found = {name: table[name].to_pylist() for name in table.column_names}
        if self._wanted.writes_visual_tokens:
            found["visual_tokens"] = [each.float().numpy() for each in each_visual_tokens(results.tensors)]
        place = {key: at for at, key in enumerate(found.pop("image"))}
        rows = [place.get(picture.key) for picture in pictures]
        columns = {
            name: [None if at is None or name not in found else found[name][at] for at in rows] for name in self._names
        }
        if "visual_tokens" in columns:
            columns["visual_tokens"] = [self._no_tokens if each is None else each for each in columns["visual_tokens"]]
        return {**columns, ERROR: [errors.get(picture.key, "") for picture in pictures]}

    def _batches(self, pictures: Sequence[Picture], threads: ThreadPoolExecutor) -> Iterator[Batch]:
        for at in range(0, len(pictures), self._wanted.batch):
            part = pictures[at : at + self._wanted.batch]
            yield Batch(0, False, part, [threads.submit(self._prepared, picture) for picture in part])

    def _prepared(self, picture: Picture) -> Prepared:
        return Prepared(pixels_of(self._encoder, picture))

    def _source(self, value: Any) -> Source:
        try:
            return stored_source(value, self._folder, "name the folder of its files as `images`")
        except VocabkitError as error:
            return Unusable(str(error))


def _names(wanted: InferOptions, *, spelled: bool) -> list[str]:
    """The columns of results, which a batch without any usable picture has too."""
    names = ["prompt_embeds"] if wanted.prompt_embeds else []
    names += ["caption"] if wanted.captions else []
    names += ["words", "share", "prompt"] if wanted.words else []
    names += ["visual_ids"] if wanted.words and spelled else []
    names += ["coefficient", "row", "token_id", "token"] if wanted.top else []
    return names + (["visual_tokens"] if wanted.writes_visual_tokens else [])
