"""JSON files into typed structures. Fields that the structure does not name are skipped, not built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading

T = TypeVar("T")


def decode_json(path: Path, structure: type[T], what: str) -> T:
    """The content of `path` as `structure`, a msgspec.Struct or any type that msgspec knows.

    Raises VocabkitError: missing, not UTF-8, not JSON, or not `what` (words for the message).
    """
    with reading(path):
        content = path.read_bytes()
    try:
        if not content.isascii():
            content.decode()  # also what msgspec skips: other programs refuse the file
        return msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=structure)
    except msgspec.ValidationError as error:
        raise VocabkitError(f"{path}: not {what} ({quote(str(error), 200)})") from error
    except UnicodeDecodeError as error:
        raise VocabkitError(f"{path}: not UTF-8 ({error.reason}); expected a JSON file") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise VocabkitError(f"{path}: not valid JSON ({quote(str(error), 200)}); is it truncated?") from error


def optional_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, {} if there is no such file."""
    return decode_json(path, dict[str, Any], "a JSON object") if path.is_file() else {}
