"""Hugging Face data sets: a column of images beside a column of captions or conversations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vocabkit.data.image_folder import ImageFolder
from vocabkit.data.samples import PLACEHOLDER, Picture, Sample, Turn, parse_turns
from vocabkit.errors import VocabkitError, quote
from vocabkit.extras import needs_extra
from vocabkit.hub import is_hub_id
from vocabkit.json_records import is_text

_Parsed = TypeVar("_Parsed")


def read_dataset(
    source: str, *, split: str = "train", image_column: str = "image", text_column: str = "text"
) -> Iterator[Sample]:
    """The samples of a data set that the `datasets` library can open, streamed, one after the other.

    A row's text is a caption, the answer to the bare images; or a conversation in LLaVA's form. A row may have one
    image or a list of them. Images stay undecoded: a null one is found broken by `load_image`. A picture's key is
    `SPLIT/ROW/NUMBER`, counted from 0.

    Args:
        source: a local folder (of Parquet, Arrow, JSON, images with metadata, or written by `save_to_disk`) or a hub
            id, owner/name. Images outside the data set's files are refused.

    Raises:
        VocabkitError: `datasets` is not installed, no such data set, split or column, damaged files, or a row that is
            not as above, by its number.
    """
    yield from _of_rows(source, split, lambda row, key, folder: _sample(row, image_column, text_column, key, folder))


def read_pictures(source: str, *, split: str = "train", image_column: str = "image") -> Iterator[Picture]:
    """The pictures alone of a data set that needs no text. See `read_dataset`."""
    for pictures in _of_rows(source, split, lambda row, key, folder: _images(row, image_column, key, folder)):
        yield from pictures


def _of_rows(
    source: str, split: str, parse: Callable[[Mapping[str, Any], str, ImageFolder | None], _Parsed]
) -> Iterator[_Parsed]:
    folder = ImageFolder(Path(source)) if Path(source).is_dir() else None
    if folder is None and not is_hub_id(source):
        raise VocabkitError(f"{source}: no such folder, and no hub id (owner/name)")
    for number, row in enumerate(_rows(source, split)):
        try:
            parsed = parse(row, f"{split}/{number}", folder)
        except VocabkitError as error:
            raise VocabkitError(f"{source}: {split}, row {number}: {error}") from error
        yield parsed


def _rows(source: str, split: str) -> Iterator[dict[str, Any]]:
    with needs_extra("train", "reading a Hugging Face data set"):
        import datasets
    try:
        if any(Path(source, file).is_file() for file in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(source)
            rows = (saved[split] if isinstance(saved, datasets.DatasetDict) else saved).to_iterable_dataset()
        else:
            rows = datasets.load_dataset(source, split=split, streaming=True)
        yield from rows.decode(False) if rows.features else rows  # without features there is nothing to decode
    except Exception as error:  # of datasets, Arrow, fsspec, the HTTP library, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocabkitError(
            f"{source}: can't read split {quote(split)} of this data set ({quote(reason, 160)})"
        ) from error


def _sample(
    row: Mapping[str, Any], image_column: str, text_column: str, key: str, folder: ImageFolder | None
) -> Sample:
    images, text = _images(row, image_column, key, folder), _column(row, text_column)
    if isinstance(text, str):
        if not is_text(text):
            raise VocabkitError(f"column {quote(text_column)} holds half a surrogate pair, which is no text")
        turns: tuple[Turn, ...] = (Turn("\n".join([PLACEHOLDER] * len(images)), text),)
    elif isinstance(text, list):
        turns = parse_turns(text)
    else:
        kind = type(text).__name__
        raise VocabkitError(f"column {quote(text_column)} holds {kind}, expected a caption or a conversation")
    extra = {name: value for name, value in row.items() if name not in (image_column, text_column)}
    return Sample(key, images, turns, extra)


def _images(row: Mapping[str, Any], column: str, key: str, folder: ImageFolder | None) -> tuple[Picture, ...]:
    found = _column(row, column)
    stored = found if isinstance(found, list) else [found]
    return tuple(Picture(f"{key}/{number}", _source(each, folder)) for number, each in enumerate(stored))


def _column(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise VocabkitError(f"no column {quote(name)}; it has {quote(', '.join(row), 120)}: choose one of them")
    return row[name]


def _source(stored: Any, folder: ImageFolder | None) -> Path | bytes:
    """Content or path of an image, from what an Image feature stores or what people put in its place."""
    if isinstance(stored, dict):
        stored = stored.get("path") if stored.get("bytes") is None else stored["bytes"]
    if stored is None or isinstance(stored, bytes):
        return stored or b""
    if not isinstance(stored, str):
        raise VocabkitError(f"an image is {type(stored).__name__}, expected bytes or the name of a file")
    if folder is None:
        raise VocabkitError(
            f"image {quote(stored)} is not in the table; download the data set (hf download --repo-type dataset) and"
            " name its folder"
        )
    home = folder.path.absolute()  # datasets makes paths of images absolute
    return folder.file(os.path.relpath(stored, home) if Path(stored).is_relative_to(home) else stored)
