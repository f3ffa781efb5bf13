"""Index maps of the published LangBridge code: read, proven row by row, and turned into a SharedVocabulary."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from operator import eq
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import binary_array, take
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, TokenizerInfo, make_shared
from vocabkit.tokenizer.spelling import all_from_alphabet, byte_piece
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

_MAX_INT = 2**63 - 1


def read_map(path: str | Path) -> list[tuple[str, int]]:
    """Return the rows of an index map, (spelling, id), in its order.

    Two layouts: an object `{spelling: id}` in row order, and a list of `{spelling: [id, rank]}`, whose rank is the row.

    Raises:
        VocabkitError: not such JSON, empty, an id that isn't an integer from 0, a repeated or invalid spelling, ranks
            with gaps.
    """
    path = Path(path)
    return checked_ids(path, keyed_rows(path, read_json(path)))


def read_json(path: Path) -> list[Any] | tuple[tuple[str, Any], ...]:
    """Return the JSON array or object in `path`, not empty. Raises VocabkitError.

    Arrays are lists; objects are tuples of (key, value), so that repeated keys are seen.
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
    """(key, value) of an object or a ranked list of `read_json`. Raises VocabkitError if a key is repeated."""
    rows = list(value) if isinstance(value, tuple) else _by_rank(path, value)
    seen: set[str] = set()
    for key, _ in rows:
        if not _is_unicode(key):
            raise VocabkitError(f"{path}: {quote(key)} is not valid Unicode (half of a surrogate pair)")
        if key in seen:
            raise VocabkitError(f"{path}: {quote(key)} appears twice; a map has one row per token")
        seen.add(key)
    return rows


def checked_ids(path: Path, rows: list[tuple[str, Any]], what: str = "id") -> list[tuple[str, int]]:
    """`rows` if each value is an integer from 0, VocabkitError if not. Messages call it `what`."""
    for key, value in rows:
        if type(value) is not int or not 0 <= value <= _MAX_INT:
            article = "an" if what == "id" else "a"
            shown = "a list or object" if isinstance(value, list | tuple) else json.dumps(value)[:60]
            raise VocabkitError(f"{path}: {quote(key)} has {shown} for {article} {what}; {what}s are integers from 0")
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


MAX_LISTED = 5
"""Wrong rows that a message lists."""
_MIN_COUNTS = 5
"""Rows from which falling values tell counts from ids: five ids fall by chance in 1 of 5! = 120 orders."""


def import_map(
    path: str | Path,
    owner: Vocabulary,
    others: Sequence[Vocabulary] = (),
    sister_maps: Mapping[str, str | Path] = MappingProxyType({}),
    *,
    counts: str | Path | None = None,
) -> SharedVocabulary:
    """Turn an index map into a shared vocabulary with the same rows, after proving each of them.

    A row is proven if its id is a text or byte token of `owner` with the bytes that its spelling denotes, in the
    alphabet of `best_alphabet`. Ids are kept, aliases included, because the adapter was trained with their rows. Ids
    of the other tokenizers are looked up by those bytes.

    Args:
        path: a map as for `read_map`, with ids of `owner`.
        others: more tokenizers; each must have every row.
        sister_maps: name of one of `others` -> the map published for it, which must hold the same tokens row by
            row.
        counts: corpus counts published beside the map, {spelling: count}, spelled alike. Tokens that are no rows count
            towards the size of the corpus only.

    Raises:
        VocabkitError: as `read_map`; rows that are not `owner`'s tokens (the first are listed), counts instead
            of ids, two rows with the same bytes, a tokenizer that lacks rows or is given twice, a different sister map,
            counts that lack rows or are ids.
    """
    named = {other.name: other for other in others}
    for name in sister_maps.keys() - named.keys():
        raise VocabkitError(f"{sister_maps[name]}: its tokenizer {quote(name)} is not one of the others")
    path = Path(path)
    rows = read_map(path)
    ids = _proven_ids(path, rows, owner)
    shared = make_shared(
        tokens=take(owner.tokens, ids),
        ids=ids[None],
        tokenizers=[TokenizerInfo.of(owner)],
        selection=Selection(at_least=1 + len(others), order="map"),
    )
    for other in others:
        shared = shared.extend(other)
        _refuse_missing(path, rows, shared, other.name)
    for name, sister in sister_maps.items():
        _refuse_different(path, Path(sister), shared, named[name])
    return shared if counts is None else _with_counts(path, rows, shared, Path(counts), [owner, *others])


def _from_plain(pieces: Sequence[str]) -> pa.Array:
    return binary_array([piece.encode() for piece in pieces])


def _from_sentencepiece(pieces: Sequence[str]) -> pa.Array:
    return binary_array([byte_piece(piece) or piece.replace("▁", " ").encode() for piece in pieces])


ALPHABETS: Mapping[str, Callable[[Sequence[str]], pa.Array]] = MappingProxyType(
    {
        "plain": _from_plain,
        "sentencepiece": _from_sentencepiece,
        "byte-level": lambda pieces: all_from_alphabet(pieces)[0],
    }
)
"""Ways to spell bytes: the text itself; `▁` for a space and `<0xNN>` for a byte; GPT-2's byte alphabet."""


def best_alphabet(rows: Sequence[tuple[str, int]], owner: Vocabulary) -> tuple[str, np.ndarray]:
    """The name of `ALPHABETS` by which most spellings of a map denote the bytes that `owner` has for their ids, and
    (R,) bool, True for the rows that it proves.

    Of alphabets that do equally well, the first of `ALPHABETS`: a map of ASCII words without spaces is `plain`.
    """
    ids = np.array([token_id for _, token_id in rows], np.int64)
    safe = np.where(ids < len(owner), ids, 0)
    usable = (ids < len(owner)) & owner.alignable[owner.canonical[safe]]
    expected = take(owner.tokens, safe).to_pylist()
    proven: dict[str, np.ndarray] = {}
    for name, decode in ALPHABETS.items():
        decoded = decode([spelling for spelling, _ in rows]).to_pylist()
        proven[name] = usable & np.fromiter(map(eq, decoded, expected), bool, len(rows))
    best = max(proven, key=lambda name: int(proven[name].sum()))
    return best, proven[best]


def _proven_ids(path: Path, rows: Sequence[tuple[str, int]], owner: Vocabulary) -> np.ndarray:
    """(R,) int32, the ids of the rows in `owner`, or VocabkitError."""
    alphabet, proven = best_alphabet(rows, owner)
    wrong = np.flatnonzero(~proven)
    if len(wrong):
        _refuse_counts(path, rows, owner, len(wrong))

        def describe(row: int) -> str:
            spelling, token_id = rows[row]
            return f"row {row} {quote(spelling)} id {token_id} is {_what(owner, token_id)}"

        raise VocabkitError(
            f"{path}: {len(wrong)} of {len(rows)} rows are not {owner.name}'s tokens (spellings read as {alphabet}): "
            f"{_listed(wrong, describe)}; give the tokenizer that the map was made for"
        )
    ids = np.array([token_id for _, token_id in rows], np.int32)
    meaning = owner.canonical[ids]
    distinct, first = np.unique(meaning, return_index=True)
    if len(distinct) < len(ids):
        again = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        before = int(np.flatnonzero(meaning == meaning[again])[0])
        raise VocabkitError(
            f"{path}: rows {before} {quote(rows[before][0])} (id {rows[before][1]}) and {again} "
            f"{quote(rows[again][0])} (id {rows[again][1]}) are the same bytes {_short(owner.token(int(ids[again])))}; "
            "remove one of them"
        )
    return ids


def _refuse_counts(path: Path, rows: Sequence[tuple[str, int]], owner: Vocabulary, wrong: int) -> None:
    """VocabkitError if the values fall like corpus counts and can't be ids of `owner`."""
    values = [value for _, value in rows]
    falling = all(a >= b for a, b in itertools.pairwise(values))
    if len(values) >= _MIN_COUNTS and falling and (values[0] >= len(owner) or 2 * wrong > len(values)):
        raise VocabkitError(
            f"{path}: holds corpus counts, not ids: its values never rise, from {values[0]} to {values[-1]}, and "
            f"{wrong} of {len(values)} are not {owner.name}'s ids for these tokens; give a map of ids, or count "
            "a corpus yourself with `vocabkit build-shared --rank-by CORPUS`"
        )


def _with_counts(
    path: Path,
    rows: Sequence[tuple[str, int]],
    shared: SharedVocabulary,
    file: Path,
    tokenizers: Sequence[Vocabulary],
) -> SharedVocabulary:
    """`shared` with the counts in `file`, looked up by the spellings of its rows."""
    counted = checked_ids(file, keyed_rows(file, read_json(file)), "count")
    owner = next((each.name for each in tokenizers if best_alphabet(counted, each)[1].all()), None)
    if owner is not None:
        raise VocabkitError(
            f"{file}: holds ids of {owner}, not counts; give the file of counts, such as sub_llava_….json"
        )
    by_spelling = dict(counted)
    missing = np.flatnonzero([spelling not in by_spelling for spelling, _ in rows])
    if len(missing):
        listed = _listed(missing, lambda row: f"row {row} {quote(rows[row][0])}")
        raise VocabkitError(
            f"{file}: has no counts of {len(missing)} of the {len(rows)} rows of {path.name}: {listed}; give the "
            "counts that the map was made from"
        )
    counts = np.array([by_spelling[spelling] for spelling, _ in rows], np.int64)
    total = sum(by_spelling.values())
    if not 0 < total <= _MAX_INT:
        raise VocabkitError(f"{file}: its counts sum to {total}; no corpus has so many tokens")
    selection = dataclasses.replace(
        shared.selection, corpus=file.name, corpus_tokens=total, mass_kept=sum(counts.tolist()) / total
    )
    return dataclasses.replace(shared.with_counts(counts), selection=selection)


def _refuse_missing(path: Path, rows: Sequence[tuple[str, int]], shared: SharedVocabulary, name: str) -> None:
    missing = np.flatnonzero(~shared.mask_for(name))
    if len(missing):
        tokens = shared.tokens
        listed = _listed(missing, lambda row: f"row {row} {quote(rows[row][0])} ({_short(tokens[row].as_py())})")
        raise VocabkitError(
            f"{path}: {len(missing)} of {len(rows)} rows are no tokens of {name}: {listed}; "
            f"use fewer tokenizers: leave {name} out"
        )


def _refuse_different(path: Path, sister: Path, shared: SharedVocabulary, other: Vocabulary) -> None:
    rows = read_map(sister)
    if len(rows) != len(shared):
        raise VocabkitError(
            f"{sister}: {len(rows)} rows, but {path.name} has {len(shared)}; give two maps of the same size"
        )
    wrong = np.flatnonzero(other.canonical[_proven_ids(sister, rows, other)] != shared.ids_for(other.name))
    if len(wrong):
        tokens = shared.tokens
        listed = _listed(wrong, lambda row: f"row {row} {quote(rows[row][0])} is {_short(tokens[row].as_py())} there")
        raise VocabkitError(f"{sister}: {len(wrong)} of {len(rows)} rows differ from those of {path.name}: {listed}")


def _what(vocabulary: Vocabulary, token_id: int) -> str:
    """What a vocabulary has under an id, in words."""
    if token_id >= len(vocabulary):
        return f"beyond the last id {len(vocabulary) - 1}"
    kind = Kind(int(vocabulary.kinds[token_id]))
    shown = _short(vocabulary.token(token_id))
    return shown if kind <= Kind.BYTE else f"{kind.name.lower()} {shown}"


def _listed(rows: np.ndarray, describe: Callable[[int], str]) -> str:
    more = f"; and {len(rows) - MAX_LISTED} more" if len(rows) > MAX_LISTED else ""
    return "; ".join(describe(int(row)) for row in rows[:MAX_LISTED]) + more


def _short(token: bytes | None) -> str:
    shown = repr(token)
    return shown if len(shown) <= 60 else shown[:59] + "…"
