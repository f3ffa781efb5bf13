"""Hugging Face datasets: a column of images beside a column of captions or conversations."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from pyarrow.parquet import ParquetFile

from vocabkit.data.pictures import ImageFolder, stored_source
from vocabkit.data.samples import PLACEHOLDER, Picture, Sample, Turn, parse_turns
from vocabkit.data.urls import is_url, last_name, open_binary, opening
from vocabkit.errors import VocabkitError, needs_extra, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import is_text
from vocabkit.hub import is_hub_id

_ROWS = 32
"""Rows in memory at a time."""
_DOWNLOAD = "download the dataset (hf download --repo-type dataset) and name its folder"
_COPY = "copy the file and its images to one folder of a disk"


def is_parquet(source: str) -> bool:
    """Whether the name of a file, by path or URL, says that it is Parquet."""
    return last_name(source).lower().endswith(".parquet")


def read_dataset(
    source: str | Path, *, split: str = "train", image_column: str = "image", text_column: str = "text"
) -> Iterator[Sample]:
    """Yield the samples of a dataset that the `datasets` library can open.

    A row's text is a caption, which answers the bare images, or a conversation in LLaVA's form. A row has one image or
    a list of images; `load_image` reports null as broken. A picture's key is `SPLIT/ROW/NUMBER`, counted from 0. The
    content of images is not kept: `load_image` reads it again from the files of `datasets`.

    Args:
        source: a local folder (of Parquet, Arrow, JSON, images with metadata, or written by `save_to_disk`); a hub id,
            owner/name; or a Parquet file, by path or URL, whose name takes the place of SPLIT in keys. Images outside
            the dataset's files raise.

    Raises:
        VocabkitError: `datasets` is not installed, no such dataset, split or column, damaged files, or a row of another
            form, which is named by its number.
    """
    source = str(source)
    folder, batch_size = _image_folder(source), None
    if is_parquet(source):
        with _parquet(source, image_column, text_column) as parquet:
            if not parquet.metadata.num_rows:
                return
            if not parquet.metadata.row_group(0).num_rows:
                batch_size = _ROWS  # datasets takes that of the first row group, and fails if it is empty
    with _opening(source, split):
        table = _open(source, split, streaming=False, batch_size=batch_size).with_format("arrow")
        for number, row in enumerate(row for rows in table.iter(_ROWS) for row in rows.to_pylist()):
            with _naming(source, split, number):
                sample = _sample(row, image_column, text_column, f"{_prefix(source, split)}/{number}", folder)
            stored = (partial(_content, table, number, image_column, place) for place in count())
            pictures = tuple(
                Picture(picture.key, read if isinstance(picture.source, bytes) else picture.source)
                for picture, read in zip(sample.images, stored, strict=False)
            )
            yield replace(sample, images=pictures)


def read_pictures(source: str | Path, *, split: str = "train", image_column: str = "image") -> Iterator[Picture]:
    """Stream the pictures of a dataset, with their content; it needs no text. See `read_dataset`."""
    source = str(source)
    folder = _image_folder(source)
    if is_parquet(source):
        yield from _parquet_pictures(source, image_column, folder)
        return
    with _opening(source, split):
        rows = _open(source, split, streaming=True)
        # without features there is nothing to decode
        for number, row in enumerate(rows.decode(False) if rows.features else rows):
            with _naming(source, split, number):
                pictures = _images(row, image_column, f"{_prefix(source, split)}/{number}", folder)
            yield from pictures


def _parquet_pictures(source: str, image_column: str, folder: ImageFolder | None) -> Iterator[Picture]:
    """Without `datasets`, which fails on files without rows and opens no store while the hub is offline."""
    name = last_name(source)
    with _parquet(source, image_column) as parquet:
        batches = parquet.iter_batches(_ROWS, columns=[image_column])
        for number, stored in enumerate(each for batch in batches for each in batch.column(0).to_pylist()):
            with _naming(source, f"column {image_column}", number):
                pictures = _images({image_column: stored}, image_column, f"{name}/{number}", folder)
            yield from pictures


@contextmanager
def _parquet(source: str, image_column: str, text_column: str | None = None) -> Iterator[ParquetFile]:
    """Open a Parquet file, by path or URL. Raises VocabkitError: damaged, or not one column of each name."""
    with open_binary(source) as file, opening(source):
        parquet = ParquetFile(file)
        names = parquet.schema_arrow.names
        for column, parameter in ((image_column, "image_column"), (text_column, "text_column")):
            if column is None:
                continue
            if column not in names:
                raise VocabkitError(f"{source}: {_lacking(column, names, parameter)}")
            if names.count(column) > 1:
                raise VocabkitError(f"{source}: has {names.count(column)} columns {quote(column)}; rename all but one")
        yield parquet


def _prefix(source: str, split: str) -> str:
    return last_name(source) if is_parquet(source) else split


def _image_folder(source: str) -> ImageFolder | None:
    if is_parquet(source):
        if is_url(source):
            return None
        with reading(Path(source)), Path(source).open("rb"):
            return ImageFolder(Path(source).parent)
    folder = ImageFolder(Path(source)) if Path(source).is_dir() else None
    if folder is None and not is_hub_id(source):
        raise VocabkitError(f"{source}: no such folder, and no hub id (owner/name)")
    return folder


def _open(source: str, split: str, *, streaming: bool, batch_size: int | None = None) -> Any:
    """A `datasets.Dataset`, or an `IterableDataset`. Of a Parquet file, `batch_size` rows are read at a time."""
    with needs_extra("train", "reading a Hugging Face dataset"):
        import datasets
    if Path(source).is_dir() and all(file.suffix in (".txt", ".md") for file in Path(source).iterdir()):
        raise VocabkitError(f"{source}: no pictures in this folder; name one that has some")
    if not is_parquet(source) and any(Path(source, file).is_file() for file in ("state.json", "dataset_dict.json")):
        saved = datasets.load_from_disk(source)
        rows = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return rows.to_iterable_dataset() if streaming else rows
    shown, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are raised, too
    try:
        if is_parquet(source):
            file = source if is_url(source) else glob.escape(source)  # a name is a pattern
            settings: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
            files = {split: [file]}
            return datasets.load_dataset("parquet", data_files=files, split=split, streaming=streaming, **settings)
        return datasets.load_dataset(source, split=split, streaming=streaming)
    finally:
        datasets.logging.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _opening(source: str, split: str) -> Iterator[None]:
    try:
        yield
    except VocabkitError:
        raise
    except Exception as error:  # of datasets, Arrow, fsspec, the HTTP library, ...
        told = type(error).__name__ != "DatasetGenerationError" or error.__cause__ is None  # which says nothing itself
        reason = (str(error if told else error.__cause__).splitlines() or [type(error).__name__])[0]
        absent = "" if is_url(source) or Path(source).exists() else "no such file or folder, and "
        raise VocabkitError(
            f"{source}: {absent}can't read split {quote(split)} of this dataset ({quote(reason, 160)})"
        ) from error


@contextmanager
def _naming(source: str, split: str, number: int) -> Iterator[None]:
    try:
        yield
    except VocabkitError as error:
        raise VocabkitError(f"{source}: {split}, row {number}: {error}") from error


def _content(table: Any, row: int, column: str, number: int) -> bytes:
    """Read the content of an image in a row of a `datasets.Dataset` in Arrow format."""
    stored = table[row][column][0].as_py()
    found = stored[number] if isinstance(stored, list) else stored
    content = found["bytes"] if isinstance(found, dict) else found
    return content or b""


def _sample(
    row: Mapping[str, Any], image_column: str, text_column: str, key: str, folder: ImageFolder | None
) -> Sample:
    images, text = _images(row, image_column, key, folder), _column(row, text_column, "text_column")
    if isinstance(text, str):
        if not is_text(text):
            raise VocabkitError(f"column {quote(text_column)} holds half a surrogate pair, which is not text")
        turns: tuple[Turn, ...] = (Turn("\n".join([PLACEHOLDER] * len(images)), text),)
    elif isinstance(text, list):
        turns = parse_turns(text)
    else:
        kind = type(text).__name__
        raise VocabkitError(f"column {quote(text_column)} holds {kind}, expected a caption or a conversation")
    extra = {name: value for name, value in row.items() if name not in (image_column, text_column)}
    return Sample(key, images, turns, extra)


def _images(row: Mapping[str, Any], column: str, key: str, folder: ImageFolder | None) -> tuple[Picture, ...]:
    found = _column(row, column, "image_column")
    stored = found if isinstance(found, list) else [found]
    advice = _COPY if is_parquet(key.partition("/")[0]) else _DOWNLOAD
    return tuple(Picture(f"{key}/{number}", stored_source(each, folder, advice)) for number, each in enumerate(stored))


def _column(row: Mapping[str, Any], name: str, parameter: str) -> Any:
    if name not in row:
        raise VocabkitError(_lacking(name, row, parameter))
    return row[name]


def _lacking(column: str, names: Iterable[str], parameter: str) -> str:
    return f"no column {quote(column)}; it has {quote(', '.join(names), 120)}: choose one of them as `{parameter}`"
