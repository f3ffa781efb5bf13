"""Output: the place that shards are written to, checked before models are loaded."""

from __future__ import annotations

from pathlib import Path

from vocabkit.data.urls import RemoteFolder, is_url
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import make_folder


def check_output_folder(folder: str) -> None:
    """Raise VocabkitError if `folder` is a file, or the URL of something else than a folder of an object store."""
    if "::" in folder and "://" in folder:  # simplecache::s3://..., which fsspec reads through several stores
        raise VocabkitError(f"{folder}: a chain of stores can't be written to; give the last one alone")
    if is_url(folder):
        RemoteFolder(folder)
    elif Path(folder).is_file():
        make_folder(Path(folder))  # says so
