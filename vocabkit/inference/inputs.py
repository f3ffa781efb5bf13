"""The pictures that people name: files, folders, LLaVA JSON and Hugging Face data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from vocabkit.data import Columns, Picture, is_llava, pictures_of
from vocabkit.data.pictures import each_once
from vocabkit.errors import VocabkitError
from vocabkit.hub import is_hub_id

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
