"""Sources of samples and pictures, by name: LLaVA files and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vocabkit.data.hf_datasets import read_dataset, read_pictures
from vocabkit.data.llava import is_llava, read_llava
from vocabkit.data.samples import Picture, Sample
from vocabkit.hub import is_hub_id


@dataclass(frozen=True)
class Columns:
    """Split and columns of a Hugging Face dataset; LLaVA files have none."""

    split: str = "train"
    image: str = "image"
    text: str = "text"
    """Captions, or conversations in LLaVA's form."""


def samples_of(source: str, images: Path | None = None, columns: Columns = Columns()) -> Iterator[Sample]:
    """Yield the samples of `source`: JSON or JSONL as for `read_llava`, or a folder or hub id as for `read_dataset`.

    Args:
        images: folder of the images of a LLaVA file; by default that of the file.

    Raises VocabkitError: as these two.
    """
    if _is_dataset(source):
        return read_dataset(source, split=columns.split, image_column=columns.image, text_column=columns.text)
    return read_llava(Path(source), images)


def pictures_of(source: str, images: Path | None = None, columns: Columns = Columns()) -> Iterable[Picture]:
    """Return the pictures of `samples_of`, with the same keys, as a list; or as a stream from a dataset, even of images
    without text.
    """
    if _is_dataset(source):
        return read_pictures(source, split=columns.split, image_column=columns.image)
    return [picture for sample in read_llava(Path(source), images) for picture in sample.images]


def _is_dataset(source: str) -> bool:
    """Whether `source` is a folder or, if there is no such file, a hub id."""
    path = Path(source)
    return path.is_dir() or (not path.exists() and not is_llava(path) and is_hub_id(source))
