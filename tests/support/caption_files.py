"""The same captions in every format that a corpus comes in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CAPTIONS = [
    "A red apple and a green pear lie on a wooden table.",
    "The dog sleeps in the sun; the ball is in front of it.",
    "Ein Mädchen fährt Rad. 一匹の猫が寝ている。 🐈",
    "A caption that spells <|im_end|> and </s> like a special token.",
    "  two  spaces,\ttabs and a trailing space ",
]


def llava(caption: str, number: int) -> dict[str, object]:
    """A record as LLaVA-Pretrain has it; what the human says must not count."""
    turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": caption}]
    return {"id": str(number), "image": f"{number}.jpg", "conversations": turns}


def write_text(path: Path, captions: Sequence[str] = CAPTIONS) -> None:
    """Plain text with the line ends of Windows, the last one missing."""
    path.write_bytes("\r\n".join(captions).encode())


def _write_lines(path: Path, captions: Sequence[str]) -> None:
    path.write_text("\n\n".join(json.dumps({"url": "x", "caption": caption}) for caption in captions))


def _write_llava(path: Path, captions: Sequence[str]) -> None:
    records = [llava(caption, i) for i, caption in enumerate(captions)]
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False), "utf-8")


def _write_llava_lines(path: Path, captions: Sequence[str]) -> None:
    path.write_text("\n".join(json.dumps(llava(caption, i)) for i, caption in enumerate(captions)))


def _write_parquet(path: Path, captions: Sequence[str]) -> None:
    pq.write_table(pa.table({"id": range(len(captions) + 1), "text": [*captions, None]}), path)


def _write_llava_parquet(path: Path, captions: Sequence[str]) -> None:
    pq.write_table(pa.Table.from_pylist([llava(caption, i) for i, caption in enumerate(captions)]), path)


FORMATS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "captions.txt": write_text,
    "captions.jsonl": _write_lines,
    "captions.ndjson": _write_llava_lines,
    "captions.json": _write_llava,
    "lines.json": _write_llava_lines,
    "captions.parquet": _write_parquet,
    "llava.parquet": _write_llava_parquet,
}
"""Name -> a function that writes captions to a file of such a name."""


def compressed(path: Path, ending: str) -> Path:
    """`path` packed beside it: `ending` is .gz or .zst."""
    packed = path.with_name(path.name + ending)
    with pa.output_stream(packed, compression={".gz": "gzip", ".zst": "zstd"}[ending]) as out:
        out.write(path.read_bytes())
    return packed
