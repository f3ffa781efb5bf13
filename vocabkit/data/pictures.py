"""Pictures of data sets, which may be broken or hostile: each taken once, inside its folder, and decoded in threads."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from vocabkit.data.samples import Picture, Source
from vocabkit.errors import VocabkitError, needs_extra, quote
from vocabkit.files.atomic import reading
from vocabkit.files.records import is_text

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose


_Item = TypeVar("_Item")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of photographs. Pillow reads others, and one of them starts a program (EPS)."""

IMAGE = re.compile(r".*\.(bmp|gif|jpe?g|png|p[bgpn]m|tiff?|webp)", re.IGNORECASE)
"""Names of images."""
_LONGEST = 1_000_000
"""Largest side of a picture: Pillow runs out of numbers for longer ones, and says that memory is short."""
_LONGEST_NAME = 4096
"""Characters of a path: Linux allows no more."""
_STRETCHED = 100
"""Largest ratio of a picture's sides: resized by its shorter side, a longer one could fill the memory."""

PICTURE_RULES = "upright, over white, 8 bits"
"""What `load_image` does, for fingerprints of features: change the text when the pixels change."""


class ImageFolder:
    """A folder of images whose names are not trusted.

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
        if len(name) > _LONGEST_NAME:
            raise VocabkitError(f"image {quote(name)} is too long for a file name; if it is base64, store the bytes")
        if not name or "\0" in name or not is_text(name):
            raise VocabkitError(f"image {quote(name, 200)} is not a file name")
        inner = Path(name)
        real = Path(os.path.realpath(self.path / inner))
        if inner.is_absolute() and self._root in real.parents:
            raise VocabkitError(
                f"image {quote(name, 200)} is an absolute path; name it as in {self.path}: "
                f"{quote(str(real.relative_to(self._root)), 200)}"
            )
        if inner.is_absolute() or ".." in inner.parts or self._root not in real.parents:
            raise VocabkitError(
                f"image {quote(name, 200)} is outside {self.path}; copy it there, or name another folder"
            )
        return self.path / inner


def check_shape(image: Image, *, pad: bool) -> None:
    """Raise VocabkitError: made a square, or resized by its shorter side, the picture could fill the memory.

    Args:
        pad: whether it is padded to a square first.
    """
    from PIL import Image as pillow  # noqa: N813 - its class has the same name

    side, limit = max(image.size), pillow.MAX_IMAGE_PIXELS
    if pad and limit is not None and side * side > 2 * limit:
        raise VocabkitError(f"has {image.width} x {image.height} pixels, too long to be padded to a square")
    if not pad and side > _STRETCHED * min(image.size):
        raise VocabkitError(f"has {image.width} x {image.height} pixels, too long to be resized")


def path_key(path: Path) -> str:
    """Return a path as a picture's key: as text, with bytes that are not UTF-8 escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


class BrokenImage(VocabkitError):  # noqa: N818 - named for what it reports
    """An image that is missing or can't be decoded."""


@dataclass(frozen=True)
class Unusable:
    """The source of a picture that is known to be broken."""

    reason: str

    def __call__(self) -> bytes:
        """Raise VocabkitError with the reason, so that it is reported as any broken picture."""
        raise VocabkitError(self.reason)


def load_image(picture: Picture) -> Image:
    """Load a picture as 8-bit RGB, upright, by the rules of docs/formats.md: every command sees the same pixels.

    Raises BrokenImage, naming the picture: missing, truncated, damaged, not in a usual raster format, with pixels
    whose white is unknown, or with more of them than Pillow considers safe (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    try:
        source = picture.source
        if isinstance(source, Path):
            with reading(source), source.open("rb") as file:
                return _decoded(str(source), file)
        found = source if isinstance(source, bytes) else source()
        if isinstance(found, bytes) and not found:
            raise VocabkitError(f"{picture.key}: is null or empty")
        return _decoded(picture.key, io.BytesIO(found)) if isinstance(found, bytes) else as_rgb(found, picture.key)
    except VocabkitError as error:
        raise BrokenImage(str(error)) from error


_EDGE = 1 << 15
"""Bytes from the start and from the end of a picture's file that its digest covers."""


def content_digest(source: Source) -> str | None:
    """Return a digest of a picture's file: of its size and its first and last 32 KiB. Any other picture, and almost any
    edit of one, differs there, and it costs little to read. None for an opened image.

    Raises VocabkitError: can't be read.
    """
    if isinstance(source, Path):
        with reading(source), source.open("rb") as file:
            size, first = file.seek(0, os.SEEK_END), file.seek(0)
            head = file.read(_EDGE)
            file.seek(max(first, size - _EDGE))
            tail = file.read(_EDGE)
    else:
        content = source if isinstance(source, bytes) else source()
        if not isinstance(content, bytes):
            return None
        size, head, tail = len(content), content[:_EDGE], content[-_EDGE:]
    return hashlib.blake2b(b"%d %b%b" % (size, head, tail), digest_size=8).hexdigest()


def fetched(picture: Picture) -> Picture:
    """Return the picture with its content, if it takes a call to read it. Raises BrokenImage: it can't be read."""
    if isinstance(picture.source, Path | bytes):
        return picture
    try:
        content = picture.source()
    except VocabkitError as error:
        raise BrokenImage(str(error)) from error
    return Picture(picture.key, content) if isinstance(content, bytes) else picture


def unchanged(picture: Picture, digest: str) -> bool:
    """Whether a picture still has this `content_digest`, as far as can be told: its file may be gone by now."""
    try:
        return content_digest(picture.source) in (digest, None)
    except VocabkitError:
        return True


def stored_source(stored: Any, folder: ImageFolder | None, advice: str) -> Source:
    """Return the source of a picture from its value in a table: the content of a file, {bytes, path} as `datasets` and
    Parquet have it, an opened picture of Pillow, pixels as a numpy array, or the name of a file in `folder`.

    Args:
        advice: what to do about the name of a file if there is no `folder`.

    Raises VocabkitError: another kind of value, or a file that is not in `folder`. Null is a broken picture.
    """
    from PIL.Image import Image

    if isinstance(stored, dict):
        if not stored.keys() & {"bytes", "path"}:
            raise VocabkitError(
                f"an image has the fields {quote(', '.join(map(str, stored)))}, expected bytes and path"
            )
        stored = stored.get("path") if stored.get("bytes") is None else stored["bytes"]
    if stored is None or isinstance(stored, bytes):
        return stored or b""
    if isinstance(stored, Image):
        return lambda: stored
    if isinstance(stored, np.ndarray):
        return partial(_of_pixels, stored)
    if not isinstance(stored, str):
        raise VocabkitError(f"an image is {type(stored).__name__}, expected bytes or the name of a file")
    if folder is None:
        raise VocabkitError(f"image {quote(stored)} is not in the table; {advice}")
    home = folder.path.absolute()  # datasets makes paths of images absolute
    return folder.file(os.path.relpath(stored, home) if Path(stored).is_relative_to(home) else stored)


def _of_pixels(pixels: np.ndarray) -> Image:
    """(H, W) or (H, W, 1, 3 or 4) of 8 bits, or (H, W) of 16 -> picture."""
    from PIL import Image as pillow  # noqa: N813 - its class has the same name

    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    try:
        if flat.dtype not in (np.uint8, np.uint16) or not flat.size:
            raise TypeError
        return pillow.fromarray(np.ascontiguousarray(flat))
    except TypeError as error:
        shape = " x ".join(map(str, pixels.shape))
        raise VocabkitError(f"pixels are {pixels.dtype}, {shape}; expected height x width x 3 of uint8") from error


def load_cut_out(path: Path) -> Image:
    """Load a picture of a single thing as 8-bit RGBA, cropped to what is not transparent.

    Raises VocabkitError: as `load_image`, or nothing can be seen.
    """
    with reading(path), path.open("rb") as file:
        image = _decoded(str(path), file, _as_rgba)
    box = image.getchannel("A").getbbox()
    if box is None:
        raise VocabkitError(f"{path}: nothing but transparency")
    return image.crop(box)


def _as_rgba(image: Image, name: str) -> Image:
    image.load()
    return (image if _has_transparency(image) else _as_rgb(image, name)).convert("RGBA")


def _decoded(name: str, file: IO[bytes], how: Callable[[Image, str], Image] | None = None) -> Image:
    with needs_extra("adapter", "opening images"):
        from PIL import Image, UnidentifiedImageError
    try:
        opened = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise VocabkitError(f"{name}: not an image in any of {', '.join(_FORMATS)}") from error
    except MemoryError:
        raise
    except Exception as error:  # as below
        raise _broken(name, error) from error
    with opened as image:
        return _converted(image, name, how or _as_rgb)


def as_rgb(image: Image, name: str = "picture") -> Image:
    """Turn an opened picture into what `load_image` gives: as transformers does, except for 16-bit greys.

    Raises VocabkitError, naming it `name`: as `load_image`.
    """
    return _converted(image, name, _as_rgb)


def _converted(image: Image, name: str, how: Callable[[Image, str], Image]) -> Image:
    from PIL import Image as pillow  # noqa: N813 - its class has the same name

    # Pillow only warns, and warning filters are shared by all threads
    too_many = pillow.MAX_IMAGE_PIXELS is not None and image.width * image.height > pillow.MAX_IMAGE_PIXELS
    if too_many or max(image.size) > _LONGEST:
        raise VocabkitError(f"{name}: {image.width} x {image.height} pixels are too many for a picture")
    try:
        return how(image, name)
    except (VocabkitError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> VocabkitError:
    return VocabkitError(f"{name}: broken image ({quote(str(error) or type(error).__name__, 120)})")


def _as_rgb(image: Image, name: str) -> Image:
    from PIL import Image as pillow  # noqa: N813 - its class has the same name

    image.load()
    if (turn := _turns().get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _eight_bits(name, image)
    if image.mode == "F":
        raise VocabkitError(f"{name}: has float pixels, whose white is unknown; save it with 8 or 16 bits")
    if _has_transparency(image):
        image = image.convert("RGBA")
        image = pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _has_transparency(image: Image) -> bool:
    return bool({"A", "a"} & set(image.getbands())) or "transparency" in image.info


def _turns() -> dict[int, Transpose]:
    """EXIF orientation -> what makes the picture upright. Source: EXIF 2.3, tag 274, as in Pillow's exif_transpose."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip


def _orientation(image: Image) -> int:
    """The EXIF orientation; 1, upright, if there is none.

    Not Pillow's exif_transpose, which writes the other tags again and fails on those of some cameras.
    """
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF raises many kinds, and the picture is whole
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(name: str, image: Image) -> Image:
    """16-bit grey -> its high byte, as Pillow does with 16-bit colours; it would clip greys at 255, all but black."""
    from PIL import Image as pillow  # noqa: N813

    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise VocabkitError(f"{name}: has 32-bit pixels, whose white is unknown; save it with 8 or 16 bits")
    grey = (values >> 8).astype(np.uint8)
    if isinstance(key := image.info.get("transparency"), int):
        grey[values == key] = 255
    return pillow.fromarray(grey)


def each_once(pictures: Iterable[Picture], advice: str) -> Iterator[Picture]:
    """Yield each picture once. Only keys and hashes of sources are kept in memory.

    Raises VocabkitError: two pictures with one key; the message ends with `advice`.
    """
    sources: dict[str, int] = {}  # key -> hash of the source
    for picture in pictures:
        source = hash(picture.source)
        if picture.key not in sources:
            sources[picture.key] = source
            yield picture
        elif sources[picture.key] != source:
            raise VocabkitError(f"{quote(picture.key)} is the key of two pictures; {advice}")


def at_least_one(pictures: Iterable[Picture], inputs: Iterable[str | Path]) -> Iterator[Picture]:
    """Yield the pictures. Raises VocabkitError, naming the `inputs`: there are none."""
    found = False
    for picture in pictures:
        found = True
        yield picture
    if not found:
        raise VocabkitError(f"{', '.join(map(str, inputs)) or 'inputs'}: no pictures in it")


@contextmanager
def decoding_threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool; work that it has not begun is cancelled at the end.

    Restores the warning filters: decoders turn warnings off and on, and racing threads could leave them off.
    """
    threads = ThreadPoolExecutor()
    with warnings.catch_warnings():
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def ahead(items: Iterable[_Item], count: int) -> Iterator[_Item]:
    """Yield the items with a delay of `count`, so that the work that they have started runs ahead."""
    waiting: deque[_Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
