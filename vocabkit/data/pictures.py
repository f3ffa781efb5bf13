"""Pictures of data sets, which may be broken or hostile: each once, inside their folder, opened by threads."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError, needs_extra, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import is_text

if TYPE_CHECKING:
    from PIL.Image import Image


_Item = TypeVar("_Item")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of photographs. Pillow reads others, and one of them starts a program (EPS)."""


class ImageFolder:
    """A folder that untrusted names of images are relative to.

    Raises VocabkitError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise VocabkitError(f"{path}: no such folder; it should hold the images")
        self.path = path
        self._root = Path(os.path.realpath(path))

    def file(self, name: str) -> Path:
        """Return the path of `name` inside the folder; it need not exist.

        Raises VocabkitError: the name leaves the folder, by itself or through a symbolic link, or is not a file name.
        """
        if not name or "\0" in name or not is_text(name):
            raise VocabkitError(f"image {quote(name, 200)} is not a file name")
        inner = Path(name)
        real = Path(os.path.realpath(self.path / inner))
        if inner.is_absolute() or ".." in inner.parts or self._root not in real.parents:
            raise VocabkitError(
                f"image {quote(name, 200)} is outside {self.path}; copy it there, or name another folder"
            )
        return self.path / inner


class BrokenImage(VocabkitError):  # noqa: N818 - named for what it reports
    """An image that is missing or can't be decoded."""


def load_image(picture: Picture) -> Image:
    """Load a picture as RGB; the first frame of an animation. As in LLaVA, transparency and EXIF rotation are ignored.

    Raises BrokenImage, naming the picture: missing, truncated, damaged, not in a usual raster format, or with more
    pixels than Pillow considers safe (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    try:
        source = picture.source
        if isinstance(source, Path):
            with reading(source), source.open("rb") as file:
                return _decoded(str(source), file)
        return _decoded(picture.key, io.BytesIO(source if isinstance(source, bytes) else source()))
    except VocabkitError as error:
        raise BrokenImage(str(error)) from error


def _decoded(name: str, file: IO[bytes]) -> Image:
    with needs_extra("adapter", "opening images"):
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(file, formats=_FORMATS) as image:
            # Pillow only warns, and warning filters are shared by all threads
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise VocabkitError(f"{name}: {image.width} x {image.height} pixels are too many for a picture")
            return image.convert("RGB")
    except VocabkitError:
        raise
    except UnidentifiedImageError as error:
        raise VocabkitError(f"{name}: not an image in any of {', '.join(_FORMATS)}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise VocabkitError(f"{name}: broken image ({quote(str(error) or type(error).__name__, 120)})") from error


def each_once(pictures: Iterable[Picture], advice: str) -> Iterator[Picture]:
    """Yield each picture once. Remembers keys, not content.

    Raises VocabkitError: a key of two pictures, with `advice`.
    """
    sources: dict[str, int] = {}  # key -> hash of the source
    for picture in pictures:
        source = hash(picture.source)
        if picture.key not in sources:
            sources[picture.key] = source
            yield picture
        elif sources[picture.key] != source:
            raise VocabkitError(f"{quote(picture.key)} is the key of two pictures; {advice}")


@contextmanager
def decoding_threads() -> Iterator[ThreadPoolExecutor]:
    """Yield threads; work that they have not begun is cancelled at the end.

    Restores warning filters: decoders turn warnings off and on, which in threads could leave them off.
    """
    threads = ThreadPoolExecutor()
    with warnings.catch_warnings():
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def ahead(items: Iterable[_Item], count: int) -> Iterator[_Item]:
    """Yield the items `count` behind, so that their futures run ahead."""
    waiting: deque[_Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
