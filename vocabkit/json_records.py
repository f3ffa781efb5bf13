"""The records of a JSON file, one after the other: an array that is never held as a whole, or one record per line."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vocabkit.errors import VocabkitError, quote

_LONGEST_RECORD = 1 << 26
"""Characters of a JSON record. More is no record but a damaged or hostile file."""


def json_records(path: Path, blocks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The records in the text `blocks` (see `text_blocks`) of `path`, and where each stands: `record 7` or `line 7`.

    Raises VocabkitError: not JSON, truncated, or a record longer than any honest one.
    """
    first = next(blocks)
    records = _array if first.lstrip().startswith("[") else _lines
    yield from records(path, itertools.chain([first], blocks))


def is_text(value: str) -> bool:
    """False if `value` holds half a surrogate pair, which JSON can spell and no text can hold."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _lines(path: Path, blocks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Records of a file with one per line, and where each stands."""
    rest, before = "", 0
    for block in itertools.chain(blocks, ["\n"]):
        *lines, rest = (rest + block).split("\n")
        for number, line in enumerate(lines, before + 1):
            if line and not line.isspace():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise _not_json(f"{path}: line {number}", error) from error
                yield f"line {number}", record
        before += len(lines)
        _check_length(f"{path}: line {before + 1}", rest)


_GAP = re.compile(r"[ \t\r\n]*([,\]]?)[ \t\r\n]*")


def _array(path: Path, blocks: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Records of an array that is never held as a whole, and where each stands."""
    decode = json.JSONDecoder().raw_decode
    text, number, enough, closed = next(blocks).lstrip()[1:], 1, 0, False
    for block in itertools.chain([""], blocks, [None]):
        text += block or ""
        if block is not None and len(text) < enough:
            continue
        at = 0
        while not closed:
            gap = _GAP.match(text, at)
            assert gap is not None
            if gap[1] == "]":
                closed, at = True, gap.end()
            elif gap.end() == len(text):
                break
            elif gap[1] != ("," if number > 1 else ""):
                raise _not_json(f"{path}: record {number}", "expected a comma before it")
            else:
                try:
                    record, at = decode(text, gap.end())
                except (ValueError, RecursionError) as error:
                    if block is not None and _unfinished(error, text):
                        break
                    raise _not_json(f"{path}: record {number}", error) from error
                yield f"record {number}", record
                number += 1
        text = text[at:]
        if closed and text.strip():
            raise _not_json(f"{path}: after record {number - 1}", "more text after the end of the array")
        _check_length(f"{path}: record {number}", text)
        enough = 2 * len(text)  # a long record is not parsed again with each block
    if not closed:
        raise _not_json(f"{path}: record {number}", "the array has no end")


def _unfinished(error: Exception, text: str) -> bool:
    """True if what `raw_decode` found wrong may be for want of more text: a number, word or escape may be cut."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos > len(text) - 16
    )


def _not_json(where: str, error: Exception | str) -> VocabkitError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return VocabkitError(f"{where}: not valid JSON ({quote(reason, 80)}); is the file truncated?")


def _check_length(where: str, text: str) -> None:
    if len(text) > _LONGEST_RECORD:
        raise VocabkitError(f"{where} is longer than {_LONGEST_RECORD:,} characters; is the file damaged?")
