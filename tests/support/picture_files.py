"""Small pictures and LLaVA records."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image


def encoded(kind: str = "PNG", side: int = 16, colour: str = "red") -> bytes:
    """A square picture in a format of Pillow, not of one colour so that it takes some bytes."""
    picture = Image.radial_gradient("L").resize((side, side)).convert("RGB")
    picture.paste(colour, (0, 0, side // 2, side // 2))
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def record(*said: str, **fields: Any) -> dict[str, Any]:
    """A LLaVA record in which human and gpt say `said` in turn."""
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(said)]
    return {"id": "1", **fields, "conversations": turns}


def write_records(path: Path, *records: Any) -> Path:
    """An array as LLaVA writes it, or lines if the name says so."""
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=2), "utf-8")
    return path
