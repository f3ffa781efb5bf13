"""Pictures of every kind that cameras, scanners and drawing programs write: file name -> content."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

ORIENTATIONS = range(1, 9)


def scene() -> Image.Image:
    """RGB, not square, another colour in each corner."""
    down, across = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([down * 6, across * 4, (down + across) * 2], axis=-1).astype(np.uint8))


def see_through() -> Image.Image:
    """RGBA: opaque at the left, then half, then fully transparent over a hidden colour."""
    picture = scene().convert("RGBA")
    alpha = np.repeat(np.array([255, 128, 0], dtype=np.uint8), 20)[None].repeat(40, axis=0)
    picture.putalpha(Image.fromarray(alpha))
    return picture


def turned(orientation: int) -> bytes:
    """A JPEG whose EXIF says how it must be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return written(scene(), "JPEG", exif=exif, quality=95)


def sixteen_bits() -> np.ndarray:
    """(40, 60) uint16, with values in all of its range."""
    return np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)


def written(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _animation(kind: str) -> bytes:
    frames = [scene().quantize(64), Image.new("RGB", (60, 40), "blue").quantize(64)]
    return written(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


LIKE_TRANSFORMERS: dict[str, Callable[[], bytes]] = {
    **{f"turned-{number}.jpg": lambda number=number: turned(number) for number in ORIENTATIONS},  # type: ignore[misc]
    "palette.png": lambda: written(scene().quantize(32), "PNG"),
    "palette-alpha.png": lambda: written(see_through().quantize(32), "PNG"),
    "palette-key.gif": lambda: written(scene().quantize(8), "GIF", transparency=3),
    "rgba.png": lambda: written(see_through(), "PNG"),
    "rgba.webp": lambda: written(see_through(), "WEBP", lossless=True, exact=True),
    "rgba.tiff": lambda: written(see_through(), "TIFF"),
    "grey-alpha.png": lambda: written(see_through().convert("LA"), "PNG"),
    "grey-key.png": lambda: written(scene().convert("L"), "PNG", transparency=60),
    "colour-key.png": lambda: written(scene(), "PNG", transparency=scene().getpixel((30, 20))),
    "cmyk.tiff": lambda: written(scene().convert("CMYK"), "TIFF"),
    "cmyk-adobe.jpg": lambda: written(scene().convert("CMYK"), "JPEG", quality=95),
    "one-bit.png": lambda: written(scene().convert("1"), "PNG"),
    "grey.jpg": lambda: written(scene().convert("L"), "JPEG"),
    "animated.gif": lambda: _animation("GIF"),
    "animated.webp": lambda: _animation("WEBP"),
    "animated.png": lambda: _animation("PNG"),
    "sixteen-bit-colour.ppm": lambda: (
        b"P6 60 40 65535\n" + sixteen_bits().astype(">u2")[..., None].repeat(3, axis=2).tobytes()
    ),
}
"""Those that transformers opens by our rules."""

SIXTEEN_BIT_GREY: dict[str, Callable[[], bytes]] = {
    "grey-16.png": lambda: written(Image.fromarray(sixteen_bits()), "PNG"),
    "grey-16.tiff": lambda: written(Image.fromarray(sixteen_bits()), "TIFF"),
    "grey-16.pgm": lambda: b"P5 60 40 65535\n" + sixteen_bits().astype(">u2").tobytes(),
    "grey-32.tiff": lambda: written(Image.fromarray(sixteen_bits().astype(np.int32)), "TIFF"),
}
"""Those of which Pillow alone keeps only black and white."""
