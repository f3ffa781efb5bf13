"""Opening images that may be missing, broken or hostile."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_pictures import LIKE_TRANSFORMERS, ORIENTATIONS, SIXTEEN_BIT_GREY, scene, sixteen_bits, turned, written
from picture_files import encoded
from PIL import Image, ImageOps

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


def opened(content: bytes) -> Image.Image:
    return load_image(Picture("a", content))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned(orientation))))
    picture = opened(turned(orientation))
    assert picture.size == ((60, 40) if orientation < 5 else (40, 60))
    assert picture.tobytes() == upright.tobytes()


def test_damaged_exif_turns_nothing() -> None:
    content = written(scene(), "JPEG", exif=b"Exif\0\0" + bytes(range(40)))
    assert opened(content).tobytes() == opened(written(scene(), "JPEG")).tobytes()


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "rgba.tiff", "grey-alpha.png"])
def test_transparency_is_laid_over_white(name: str) -> None:
    picture = np.asarray(opened(LIKE_TRANSFORMERS[name]())).astype(int)
    colours = np.asarray(scene().convert("L" if "grey" in name else "RGB").convert("RGB")).astype(int)
    assert np.abs(picture[:, :20] - colours[:, :20]).max() <= 1
    assert np.abs(picture[:, 20:40] - (colours[:, 20:40] + 255) / 2).max() <= 1.5
    assert (picture[:, 40:] == 255).all()  # the hidden colours are gone


@pytest.mark.parametrize("name", ["palette-alpha.png", "palette-key.gif", "grey-key.png", "colour-key.png"])
def test_transparency_of_a_palette_or_one_colour_is_laid_over_white(name: str) -> None:
    content = LIKE_TRANSFORMERS[name]()
    alpha = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))[..., 3]
    assert (alpha == 0).any()
    assert (np.asarray(opened(content))[alpha == 0] == 255).all()


@pytest.mark.parametrize("name", SIXTEEN_BIT_GREY)
def test_16_bit_greys_keep_their_high_byte(name: str) -> None:
    assert np.array_equal(np.asarray(opened(SIXTEEN_BIT_GREY[name]()))[..., 0], sixteen_bits() >> 8)


def test_transparent_16_bit_grey_becomes_white() -> None:
    values = np.array([[1000, 2000]], dtype=np.uint16)
    assert list(np.asarray(opened(written(Image.fromarray(values), "PNG", transparency=1000)))[0, :, 0]) == [255, 7]


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.float32([[0.5]]), "float pixels"), (np.int32([[65536]]), "32-bit pixels"), (np.int32([[-1]]), "32-bit")],
)
def test_pixels_without_a_known_white_raise(values: np.ndarray, words: str) -> None:
    assert words in refusal(written(Image.fromarray(values), "TIFF"))


def test_inverted_cmyk_of_adobe_has_the_right_colours() -> None:
    picture = opened(written(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert max(abs(a - b) for a, b in zip(picture.getpixel((8, 8)), (255, 0, 0), strict=True)) < 4


@pytest.mark.parametrize("name", [name for name in LIKE_TRANSFORMERS if name.startswith("animated")])
def test_first_frame_of_an_animation_counts(name: str) -> None:
    difference = np.asarray(opened(LIKE_TRANSFORMERS[name]())).astype(int) - np.asarray(scene())
    assert np.abs(difference).mean() < 8  # the second frame is blue


def test_missing_image_raises(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.png") == f"{tmp_path / 'absent.png'}: no such file"
    assert "is a folder" in refusal(tmp_path)
    assert "name too long" in refusal(tmp_path / ("a" * 300)).lower()


def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "pipe or device" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"a red apple", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_file_raises(content: bytes) -> None:
    assert refusal(content) == "the key: not an image in any of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"


def test_no_content_raises() -> None:
    assert refusal(b"") == "the key: is null or empty"


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


def test_row_longer_than_pillow_can_count_is_a_broken_picture() -> None:
    header = struct.pack(">IIBBBBB", 89_478_485, 1, 8, 2, 0, 0, 0)
    row = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND")
    assert "89478485 x 1 pixels are too many for a picture" in refusal(row)


def test_decompression_bomb_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)) + chunk(b"IDAT")
    )
    assert "3600000000 pixels" in refusal(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16)
    load_image(Picture("a", encoded(side=16)))
    assert "decompression bomb" in refusal(encoded(side=17))  # of which Pillow only warns
