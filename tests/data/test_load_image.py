"""Opening images that may be missing, broken or hostile."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import encoded
from PIL import Image

from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError

FORMATS = ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]


def refusal(source: Path | bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        load_image(Picture("the key", source))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{source if isinstance(source, Path) else 'the key'}: ")
    return message


def test_broken_image_is_a_vocabkit_error() -> None:
    assert issubclass(BrokenImage, VocabkitError)


@pytest.mark.parametrize("kind", FORMATS)
def test_usual_formats_open_from_files_and_bytes(tmp_path: Path, kind: str) -> None:
    content = encoded(kind)
    (tmp_path / "picture").write_bytes(content)
    for source in (tmp_path / "picture", content):
        picture = load_image(Picture("a", source))
        assert (picture.mode, picture.size) == ("RGB", (16, 16))
        red, green, blue = picture.getpixel((2, 2))
        assert red > 200
        assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_pixel_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "a.png")
    picture = load_image(Picture("a", tmp_path / "a.png"))
    assert (picture.mode, picture.size) == ("RGB", (4, 3))


def test_missing_image_raises(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.png") == f"{tmp_path / 'absent.png'}: no such file"
    assert "is a folder" in refusal(tmp_path)
    assert "name too long" in refusal(tmp_path / ("a" * 300)).lower()


def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "pipe or device" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content", [b"", b"a red apple", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_other_file_raises(content: bytes) -> None:
    assert refusal(content) == "the key: not an image in any of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_image_raises(kind: str) -> None:
    content = encoded(kind)
    for length in range(len(content) // 2):
        refusal(content[:length])


@given(st.sampled_from(FORMATS), st.data())
@settings(deadline=None, max_examples=200)
def test_damaged_image_opens_or_raises(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(kind))
    for at, value in data.draw(
        st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255), max_size=4)
    ).items():
        content[at] = value
    with contextlib.suppress(BrokenImage):
        assert load_image(Picture("a", bytes(content))).mode == "RGB"


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_decompression_bomb_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)) + chunk(b"IDAT")
    )
    assert "3600000000 pixels" in refusal(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16)
    load_image(Picture("a", encoded(side=16)))
    assert "decompression bomb" in refusal(encoded(side=17))  # of which Pillow only warns
