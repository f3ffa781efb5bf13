"""LLaVA's data format: LLaVA-Pretrain (blip_laion_cc_sbu_558k.json) and LLaVA-Instruct (llava_v1_5_mix665k.json).

A JSON array of records, or one record per line:

    {"id": "owl-1", "image": "birds/owl.jpg", "conversations": [
        {"from": "human", "value": "<image> What is this?"},
        {"from": "gpt", "value": "an owl on a branch"}]}

`image` is missing in a conversation without images, and a list in one with several. Source: docs/Data.md and
llava/train/train.py of https://github.com/haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vocabkit.data.pictures import ImageFolder
from vocabkit.data.samples import Picture, Sample, parse_turns
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import json_records, text_blocks

_T = TypeVar("_T")


class _Record(msgspec.Struct):
    conversations: Any = msgspec.UNSET
    id: str | int | None = None
    image: str | list[str] | None = None


_NAME = re.compile(r".*\.jsonl?(\.gz|\.zst)?", re.IGNORECASE)


def is_llava(path: Path) -> bool:
    """Whether `path` has a suffix of the files that `read_llava` reads."""
    return _NAME.fullmatch(path.name) is not None


def read_llava(path: str | Path, image_folder: str | Path | None = None) -> Iterator[Sample]:
    """Yield the samples in `path`: JSON or JSONL, plain or packed with gzip or zstd.

    A picture's key is the value of `image`. Images are not opened and may be missing: see `load_image`.

    Args:
        image_folder: base folder of `image`; by default that of `path`. A name that leaves the folder, by itself or
            through a symbolic link, raises: the file may come from anyone.

    Raises:
        VocabkitError: no such file or folder, damaged JSON, or a record of another form, which is named by its number.
    """
    return _read(Path(path), image_folder, _sample)


def llava_pictures(path: str | Path, image_folder: str | Path | None = None) -> Iterator[Picture]:
    """Yield the pictures of the samples in `path`, as `read_llava` does; a record needs no conversation."""
    return chain.from_iterable(_read(Path(path), image_folder, _pictures))


def _read(path: Path, image_folder: str | Path | None, make: Callable[[str, Any, ImageFolder], _T]) -> Iterator[_T]:
    with reading(path), path.open("rb") as file:
        folder = ImageFolder(path.parent if image_folder is None else Path(image_folder))
        for where, content in json_records(path, text_blocks(path, file)):
            try:
                made = make(where, content, folder)
            except VocabkitError as error:
                raise VocabkitError(f"{path}: {where}: {error}") from error
            yield made


def _sample(where: str, content: Any, folder: ImageFolder) -> Sample:
    record = _record(content)
    if record.conversations is msgspec.UNSET:
        raise VocabkitError("not a record of LLaVA (Object missing required field `conversations`)")
    return Sample(
        id=where if record.id is None else str(record.id),
        images=_images(record, folder),
        turns=parse_turns(record.conversations),
        extra={key: value for key, value in content.items() if key not in _Record.__struct_fields__},
    )


def _record(content: Any) -> _Record:
    try:
        return msgspec.convert(content, _Record)
    except msgspec.ValidationError as error:
        raise VocabkitError(f"not a record of LLaVA ({quote(str(error), 120)})") from error


def _pictures(_: str, content: Any, folder: ImageFolder) -> tuple[Picture, ...]:
    return _images(_record(content), folder)


def _images(record: _Record, folder: ImageFolder) -> tuple[Picture, ...]:
    names = [record.image] if isinstance(record.image, str) else record.image or []
    return tuple(Picture(name, folder.file(name)) for name in names)
