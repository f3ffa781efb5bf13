"""Files in place of a tiktoken rank file."""

from __future__ import annotations

from collections.abc import Iterator

from json_content import ESCAPE
from tokenizer_files import rank_file


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file."""
    good = rank_file([b"a", b"b"])
    bad = {
        "not-base64": b"b@d= 2\n",
        "bad-padding": b"Yg 2\n",
        "escapes": ESCAPE.replace("\n", "").encode() + b" 2\n",
        "truncated": b"Yw==",
        "negative": b"Yw== -1\n",
        "float": b"Yw== 2.0\n",
        "exponent": b"Yw== 1e5\n",
        "underscore": b"Yw== 1_0\n",
        "other-digits": b"Yw== \xd9\xa2\n",
        "twice": b"Yw== 1\n",
        "huge": b"Yw== 99999999999999999999\n",
        "very-huge": b"Yw== " + b"9" * 4000 + b"\n",
        "beyond": b"Yw== 16777215\n",
        "nul": b"Yw==\0 2\n",
        "three-words": b"Yw== 2 3\n",
        "no-token": b" 2\n",
    }
    for name, line in bad.items():
        yield f"ranks-{name}.tiktoken", good + line
    yield "ranks-bom.tiktoken", b"\xef\xbb\xbf" + good
    yield "ranks-of-windows.tiktoken", good.replace(b"\n", b"\r\n")
