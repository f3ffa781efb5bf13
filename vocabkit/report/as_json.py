"""JSON of any result of the library."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vocabkit.files.atomic import write_text


def to_json(value: Any) -> str:
    r"""Format `value` -- dataclasses, mappings, lists, arrays, numbers and text -- as indented JSON.

    Bytes become {"hex": ..., "text": text or null}; NaN and infinities become null. Invisible characters, control
    characters and halves of surrogate pairs are written as `\uXXXX`, so that no token can write to a terminal.
    """
    text = json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False)
    return re.sub(r"[^ -~\n]", lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def write_json(path: Path, value: Any) -> None:
    """Write `to_json(value)` atomically."""
    write_text(path, to_json(value) + "\n")


def plain(value: Any) -> Any:
    """Reduce `value` to dicts, lists, numbers, text and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return {"hex": value.hex(), "text": _text(value)}
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
