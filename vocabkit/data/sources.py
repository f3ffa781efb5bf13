"""Sources of samples and pictures, by name: LLaVA files, tars, Parquet files and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vocabkit.data.hf_datasets import is_parquet, read_dataset, read_pictures
from vocabkit.data.llava import is_llava, llava_pictures, read_llava
from vocabkit.data.pictures import IMAGE, path_key
from vocabkit.data.samples import Picture, Sample
from vocabkit.data.tars import is_tar, tar_pictures, tar_samples
from vocabkit.data.urls import UrlFile, check_url, each_file, files_below, is_url, last_name
from vocabkit.errors import VocabkitError, warn
from vocabkit.files.atomic import reading
from vocabkit.files.records import COMPRESSIONS
from vocabkit.hub import is_hub_id


@dataclass(frozen=True)
class Columns:
    """Split and columns of a Hugging Face dataset; LLaVA files have none."""

    split: str = "train"
    image: str = "image"
    text: str = "text"
    """Captions, or conversations in LLaVA's form."""


def samples_of(source: str, images: Path | None = None, columns: Columns = Columns()) -> Iterator[Sample]:
    """Yield the samples of `source`: JSON or JSONL as for `read_llava`; tars as for `tar_samples`; Parquet files, a
    folder or a hub id as for `read_dataset`. Tars and Parquet may be URLs, and patterns as for `each_file`.

    Args:
        images: folder of the images of a LLaVA file; by default that of the file.

    Raises VocabkitError: as these.
    """
    return chain.from_iterable(_samples(each, images, columns) for each in each_file(source))


def _samples(source: str, images: Path | None, columns: Columns) -> Iterator[Sample]:
    if is_tar(source):
        return tar_samples(source, columns.text)
    if _is_local_image(source):
        raise VocabkitError(f"{source}: a picture without a caption; name the file or dataset that has both")
    if _is_dataset(source):
        return read_dataset(source, split=columns.split, image_column=columns.image, text_column=columns.text)
    return read_llava(_local(source), images)


def pictures_of(source: str, images: Path | None = None, columns: Columns = Columns()) -> Iterable[Picture]:
    """Return the pictures of `samples_of`, with the same keys, even of images without text; or a picture, by path or
    URL, or those of a folder by URL. As a list, or as a stream from tars, Parquet files and datasets.
    """
    files = each_file(source)
    found = [_pictures(each, images, columns) for each in files]
    return found[0] if len(found) == 1 else chain.from_iterable(found)


def _pictures(source: str, images: Path | None, columns: Columns) -> Iterable[Picture]:
    if is_tar(source):
        return tar_pictures(source)
    if _is_local_image(source):
        return [Picture(path_key(Path(source)), Path(source))]
    if _is_dataset(source):
        return read_pictures(source, split=columns.split, image_column=columns.image)
    if is_url(source) and not is_llava(Path(last_name(source))):
        check_url(source)
        urls = [source] if is_image(source) else _images(source, files_below(source))
        if not urls:
            raise VocabkitError(f"{source}: no images in this folder; name tars and Parquet files themselves, or by *")
        return [Picture(url, UrlFile(url)) for url in urls]
    return list(llava_pictures(_local(source), images))


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and those below it, by name, sorted by path. Warns of tars and Parquet files beside them,
    which are left out.
    """
    names = _images(str(folder), map(str, folder.rglob("*")))
    return sorted(file for file in map(Path, names) if file.is_file())


def _images(folder: str, files: Iterable[str]) -> list[str]:
    images, others = list[str](), list[str]()
    for file in files:
        if is_image(file):
            images.append(file)
        elif (is_tar(file) or is_parquet(file)) and last_name(file) != "metadata.parquet":  # of an image folder
            others.append(file)
    if images and others:
        more = f" and {len(others) - 1} more" * (len(others) > 1)
        warn(f"{folder}: only its images are taken; name tars and Parquet files themselves: {min(others)}{more}")
    return images


def is_image(source: str) -> bool:
    """Whether the name of a file, by path or URL, is that of an image."""
    return IMAGE.fullmatch(last_name(source)) is not None


def is_data(source: str) -> bool:
    """Whether the name is that of a file of many pictures: a LLaVA file, a tar or Parquet."""
    return is_tar(source) or is_parquet(source) or is_llava(Path(last_name(source)))


def _is_local_image(source: str) -> bool:
    return is_image(source) and not is_url(source) and not Path(source).is_dir()


def _local(source: str) -> Path:
    if is_url(source):
        raise VocabkitError(f"{source}: LLaVA files are read from a disk; copy it and its images there")
    path = Path(source)
    if path.is_file() and not is_llava(path):  # of another name, so it may be of another kind
        with reading(path), path.open("rb") as file:
            start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start and not start.startswith((b"[", b"{", *(magic for _, magic in COMPRESSIONS.values()))):
            raise VocabkitError(
                f"{source}: no file of pictures; give images, a folder of them, tars, Parquet, or LLaVA's JSON or JSONL"
            )
    return path


def _is_dataset(source: str) -> bool:
    """Whether `source` is a Parquet file, a folder or, if there is no such file, a hub id."""
    path = Path(source)
    if is_parquet(source) or is_url(source):
        return is_parquet(source)
    return path.is_dir() or (not path.exists() and not is_llava(path) and is_hub_id(source))
