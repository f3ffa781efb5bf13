"""Names of images out of untrusted files, kept inside the image folder."""

from __future__ import annotations

import os
from pathlib import Path

from vocabkit.errors import VocabkitError, quote
from vocabkit.json_records import is_text


class ImageFolder:
    """A folder that names of images are relative to.

    Raises VocabkitError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise VocabkitError(f"{path}: no such folder; it should hold the images")
        self.path = path
        self._root = Path(os.path.realpath(path))

    def file(self, name: str) -> Path:
        """The file called `name` in the folder or below; it need not be there.

        Raises VocabkitError: the name leaves the folder, by itself or through a symbolic link, or can't be one.
        """
        if not name or "\0" in name or not is_text(name):
            raise VocabkitError(f"image {quote(name, 200)} is no name of a file")
        inner = Path(name)
        real = Path(os.path.realpath(self.path / inner))
        if inner.is_absolute() or ".." in inner.parts or self._root not in real.parents:
            raise VocabkitError(
                f"image {quote(name, 200)} lies outside {self.path}; copy it there, or name another folder"
            )
        return self.path / inner
