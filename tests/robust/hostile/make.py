"""Write the files of this folder: python tests/robust/hostile/make.py. They are committed to keep their bytes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]

import arrow_content
import binary_content
import json_content
import line_content

FOLDER = Path(__file__).parent


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file."""
    yield "empty", b""
    yield "zip.bin", b"PK\x03\x04" + bytes(60)
    yield "picture.png", b"\x89PNG\r\n\x1a\n" + bytes(60)
    yield "pickle.model", pickle.dumps({"vocab": {"a": 0}, "merges": []}, protocol=4)
    yield "pickle-old.model", pickle.dumps(["a", "b"], protocol=0)
    yield from json_content.files()
    yield from line_content.files()
    yield from binary_content.files()
    yield from arrow_content.files()


if __name__ == "__main__":
    for old in FOLDER.iterdir():
        if old.is_file() and old.suffix != ".py":
            old.unlink()
    for name, content in files():
        (FOLDER / name).write_bytes(content)
