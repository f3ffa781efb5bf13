"""What strangers send to a server of pictures: chat requests that can't be answered."""

from __future__ import annotations

import base64
import io
import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

QUESTION = {"type": "text", "text": "Describe the picture in one sentence."}


def picture(content: bytes, kind: str = "image/png") -> dict[str, Any]:
    """A part of a chat request with the content of a file."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(content).decode()}"}}


def body(content: Any, **settings: Any) -> bytes:
    """A chat request of one message, answered by the likeliest tokens."""
    asked = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 12} | settings
    return json.dumps(asked).encode()


def written(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """The file of a picture."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel, which compresses a thousand times; never in memory whole."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    squeeze, row = zlib.compressobj(1), bytes(1 + (width + 7) // 8)
    pixels = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bad_files() -> Iterator[tuple[str, bytes]]:
    """Files that are no picture, or one that is refused, each with what it is."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        whole = written(noise, kind)
        for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield f"{kind} cut at {share}", whole[: int(len(whole) * share)]
        yield f"{kind} without its beginning", whole[40:]
    yield "empty", b""
    yield "a word", b"no picture"
    yield "zeros", bytes(5000)
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    yield "PDF", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"
    yield "AVIF", written(noise, "AVIF")
    yield "JPEG 2000", written(noise, "JPEG2000")
    yield "ZIP", b"PK\x03\x04" + bytes(60)
    yield "pickle", b"cos\nsystem\n(S'touch /tmp/was-run'\ntR."
    yield "float pixels", written(Image.new("F", (9, 9), 0.5), "TIFF")
    yield "32-bit pixels", written(Image.fromarray(np.full((9, 9), 1 << 20, dtype=np.int32)), "TIFF")
    yield "a bomb of 400 million pixels", png(20_000, 20_000)
    yield "a bomb of 100 million pixels", png(10_000, 10_000)
    yield "a row of 89 million pixels", png(89_478_485, 1)
    yield "sides that overflow", b"\x89PNG\r\n\x1a\n" + png(1, 1)[8:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1)
    yield "a line across", png(60_000, 1)
    yield "a line down", png(1, 60_000)
    yield "a bar", png(20_200, 200)


def bad_contents(good: bytes) -> Iterator[tuple[str, Any]]:
    """The content of a message that can't be answered, with what is wrong."""
    for name, file in bad_files():
        yield name, [picture(file), QUESTION]
        yield f"{name}, after a good one", [picture(good), QUESTION, picture(file)]
    encoded = base64.b64encode(good).decode()
    for url in (
        "", "data:", "data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,@@@@",
        f"data:image/png;base64,{encoded[:-3]}", f"data:image/png;base64,{encoded[:99]}\x00",
        f"data:image/png,{encoded}",
        "data:text/html;base64,PGI+", "photo.png", "/etc/passwd", "file:///etc/passwd", "file:///dev/zero",
        "ftp://127.0.0.1/x.png", "http://127.0.0.1:9/x.png", "http://[", "http://", "gopher://x", "javascript:1",
        "../../x.png",
    ):  # fmt: skip
        yield f"URL {url[:40]!r}", [{"type": "image_url", "image_url": {"url": url}}, QUESTION]
    for part in (
        {"type": "image_url"}, {"type": "image_url", "image_url": None}, {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": 7}}, {"type": "image_url", "image_url": [1]},
        {"type": "image_url", "image_url": {"url": None}}, {"type": "image_embeds", "image_embeds": encoded},
        {"type": "image_embeds", "image_embeds": {"x": encoded}}, {"type": "prompt_embeds", "data": encoded},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{encoded}"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded}"}},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}, {"type": "picture"},
        {"kind": 1}, [], None, 7,
    ):  # fmt: skip
        yield f"part {json.dumps(part)[:60]}", [part, QUESTION]
    for number in range(4, 14):
        yield f"{number} pictures", [*([picture(good)] * number), QUESTION]


def bad_requests(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Bodies of chat requests that can't be answered, with what is wrong. `good` is the file of a picture."""
    for name, content in bad_contents(good):
        yield name, body(content)
    asked = body([picture(good), QUESTION])
    for text in (b"", b"{", b"[]", b"null", b"\xff\xfe", asked[:-20], asked[: len(asked) // 2], b"[" * 50_000):
        yield f"JSON {text[:20]!r}", text
    yield "no messages", json.dumps({"messages": []}).encode()
    yield "messages missing", json.dumps({"temperature": 0}).encode()
    yield "an unknown model", body([picture(good), QUESTION], model="another")
    for key, value in itertools.chain(
        {"max_tokens": -1, "temperature": -2, "top_p": 7, "n": 0, "logprobs": 5, "top_logprobs": 10**6}.items(),
        {"messages": 7, "stop": 7, "max_completion_tokens": "x", "response_format": {"type": "odd"}}.items(),
        {"mm_processor_kwargs": 7, "media_io_kwargs": {"image": {"rgba_background_color": 7}}, "tools": 7}.items(),
    ):
        yield f"{key} {value}", body([picture(good), QUESTION], **{key: value})
    yield "a prompt too long", body([picture(good), {"type": "text", "text": "word " * 20_000}])
