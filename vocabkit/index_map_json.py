"""The JSON layouts of index maps, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading

_MAX_INT = 2**63 - 1


def read_map(path: Path) -> list[tuple[str, int]]:
    """Rows (spelling, id) of an index map, in its order.

    Two layouts: an object `{spelling: id}` in row order, and a list of `{spelling: [id, rank]}`, whose rank is the row.

    Raises:
        VocabkitError: not such JSON, empty, an id that is no integer from 0, a spelling given twice or not Unicode,
            ranks that are not 0, 1, 2, ... without gaps.
    """
    return checked_ids(path, keyed_rows(path, read_json(path)))


def read_json(path: Path) -> list[Any] | tuple[tuple[str, Any], ...]:
    """The JSON array or object in `path`, not empty. Raises VocabkitError.

    Arrays are lists; objects are tuples of (key, value), so that keys given twice are seen.
    """
    with reading(path):
        if path.stat().st_size == 0:  # or a file of /proc, which may never end
            raise VocabkitError(f"{path}: empty, not JSON")
        content = path.read_bytes()
    try:
        value = json.loads(content, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise VocabkitError(f"{path}: not JSON ({quote(str(error), 120)})") from error
    if not isinstance(value, tuple | list):
        raise VocabkitError(f"{path}: not an index map; expected an object {{spelling: id}}")
    if not value:
        raise VocabkitError(f"{path}: holds no rows")
    return value


def keyed_rows(path: Path, value: list[Any] | tuple[tuple[str, Any], ...]) -> list[tuple[str, Any]]:
    """(key, value) of an object or a ranked list of `read_json`. Raises VocabkitError if a key comes twice."""
    rows = list(value) if isinstance(value, tuple) else _by_rank(path, value)
    seen: set[str] = set()
    for key, _ in rows:
        if not _is_unicode(key):
            raise VocabkitError(f"{path}: {quote(key)} is not valid Unicode (half of a surrogate pair)")
        if key in seen:
            raise VocabkitError(f"{path}: {quote(key)} is given twice; a map has one row per token")
        seen.add(key)
    return rows


def checked_ids(path: Path, rows: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    """`rows` if each value is an integer from 0, VocabkitError if not."""
    for key, value in rows:
        if type(value) is not int or not 0 <= value <= _MAX_INT:
            shown = "a list or object" if isinstance(value, list | tuple) else json.dumps(value)[:60]
            raise VocabkitError(f"{path}: {quote(key)} has {shown} for an id; ids are integers from 0")
    return rows


def _by_rank(path: Path, entries: list[Any]) -> list[tuple[str, Any]]:
    rows: dict[int, tuple[str, Any]] = {}
    for position, entry in enumerate(entries):
        pair = entry[0][1] if isinstance(entry, tuple) and len(entry) == 1 else None
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int):
            raise VocabkitError(f"{path}: entry {position} of the list is not of the form {{spelling: [id, rank]}}")
        spelling, (token_id, rank) = entry[0][0], pair
        if rank in rows:
            raise VocabkitError(f"{path}: {quote(rows[rank][0])} and {quote(spelling)} both have rank {rank}")
        rows[rank] = (spelling, token_id)
    gap = next((rank for rank in range(len(rows)) if rank not in rows), None)
    if gap is not None:
        raise VocabkitError(f"{path}: rank {gap} is missing; {len(rows)} rows need the ranks 0 to {len(rows) - 1}")
    return [rows[rank] for rank in range(len(rows))]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
