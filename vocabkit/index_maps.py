"""Index maps made elsewhere: the JSON maps of the published LangBridge code, and token translations of other tools.

`import_map` proves a published map row by row and turns it into a `SharedVocabulary`; `audit` counts what a
translation from one tokenizer's ids to another's gets right, gets wrong and misses.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vocabkit.byte_alphabet import all_from_alphabet, to_alphabet
from vocabkit.errors import VocabkitError, quote
from vocabkit.files import reading
from vocabkit.readers.byte_fallback import byte_piece
from vocabkit.segmentation import load_rules
from vocabkit.shared import Selection, SharedVocabulary, TokenizerInfo, make_shared
from vocabkit.vocabulary import Kind, Vocabulary, token_buffers

MAX_LISTED = 5
"""Wrong rows that a message lists."""
_MAX_INT = 2**63 - 1
_DIGITS = re.compile(r"[0-9]{1,18}")
_MIN_COUNTS = 5
"""Rows from which falling values tell counts from ids: five ids fall by chance in 1 of 5! = 120 orders."""
_SPACES = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies spell a leading space."""


# ---- reading -----------------------------------------------------------------------------------------------------


def read_map(path: Path) -> list[tuple[str, int]]:
    """Rows (spelling, id) of an index map, in its order.

    Two layouts: an object `{spelling: id}` in row order, and a list of `{spelling: [id, rank]}`, whose rank is the row.

    Raises:
        VocabkitError: not such JSON, empty, an id that is no integer from 0, a spelling given twice or not Unicode,
            ranks that are not 0, 1, 2, ... without gaps.
    """
    return _checked(path, _rows(path))


def read_translation(path: Path, source: Vocabulary, target_map: Path | None = None) -> np.ndarray:
    """A translation between two tokenizers for `audit`: (P, 2) int64, columns source id and target id.

    Three forms: an object `{"source id": target id}`; an index map `{source spelling: target id}` in a layout of
    `read_map`, its keys spelled as by `spellings(source)`; or, with `target_map`, two index maps of one V_shared,
    `path` with ids of the source and `target_map` with ids of the target, joined by spelling. Keys are ids if all of
    them are decimal digits. A target id of null or -1 says that there is no match, and is left out.

    Raises:
        VocabkitError: as `read_map`; a spelling that the source or the other map lacks.
    """
    if target_map is not None:
        source_ids, target_ids = dict(read_map(path)), dict(read_map(target_map))
        _refuse_unknown(path, source_ids, target_ids, f"{target_map.name}: give two maps of the same size")
        _refuse_unknown(target_map, target_ids, source_ids, f"{path.name}: give two maps of the same size")
        return np.array([(i, target_ids[spelling]) for spelling, i in source_ids.items()], np.int64)
    rows = _rows(path)
    matched = _checked(path, [(key, value) for key, value in rows if value is not None and value != -1])
    if all(_DIGITS.fullmatch(key) for key, _ in rows):
        return np.array([(int(key), value) for key, value in matched], np.int64).reshape(-1, 2)
    ids = spellings(source)
    _refuse_unknown(path, dict(rows), ids, f'{source.name}: give another source, or a map {{"source id": target id}}')
    return np.array([(ids[key], value) for key, value in matched], np.int64).reshape(-1, 2)


def _rows(path: Path) -> list[tuple[str, Any]]:
    """(key, value) of an object or a ranked list, no key twice."""
    with reading(path):
        content = path.read_bytes()
    try:
        # objects become tuples of (key, value), so that keys given twice are seen; arrays stay lists
        value = json.loads(content, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise VocabkitError(f"{path}: not JSON ({quote(str(error), 120)})") from error
    if not isinstance(value, tuple | list):
        raise VocabkitError(f"{path}: not an index map; expected an object {{spelling: id}}")
    if not value:
        raise VocabkitError(f"{path}: holds no rows")
    rows = list(value) if isinstance(value, tuple) else _by_rank(path, value)
    seen: set[str] = set()
    for key, _ in rows:
        if not _is_unicode(key):
            raise VocabkitError(f"{path}: {quote(key)} is not valid Unicode (half of a surrogate pair)")
        if key in seen:
            raise VocabkitError(f"{path}: {quote(key)} is given twice; a map has one row per token")
        seen.add(key)
    return rows


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _by_rank(path: Path, entries: list[Any]) -> list[tuple[str, Any]]:
    rows: dict[int, tuple[str, Any]] = {}
    for position, entry in enumerate(entries):
        pair = entry[0][1] if isinstance(entry, tuple) and len(entry) == 1 else None
        if not (isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int):
            raise VocabkitError(f"{path}: entry {position} of the list is not of the form {{spelling: [id, rank]}}")
        spelling, (token_id, rank) = entry[0][0], pair
        if rank in rows:
            raise VocabkitError(f"{path}: {quote(rows[rank][0])} and {quote(spelling)} both have rank {_short(rank)}")
        rows[rank] = (spelling, token_id)
    gap = next((rank for rank in range(len(rows)) if rank not in rows), None)
    if gap is not None:
        raise VocabkitError(f"{path}: rank {gap} is missing; {len(rows)} rows need the ranks 0 to {len(rows) - 1}")
    return [rows[rank] for rank in range(len(rows))]


def _checked(path: Path, rows: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    for key, value in rows:
        if type(value) is not int or not 0 <= value <= _MAX_INT:
            shown = "a list or object" if isinstance(value, list | tuple) else _short(value)
            raise VocabkitError(f"{path}: {quote(key)} has {shown} for an id; ids are integers from 0")
    return rows


def _refuse_unknown(path: Path, rows: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    unknown = [key for key in rows if key not in known]
    if unknown:
        listed = ", ".join(quote(key) for key in unknown[:MAX_LISTED])
        raise VocabkitError(f"{path}: {len(unknown)} of {len(rows)} spellings ({listed}) are not in {where}")


# ---- proving -----------------------------------------------------------------------------------------------------


def _from_plain(pieces: Sequence[str]) -> pa.Array:
    return pa.array([piece.encode() for piece in pieces], pa.binary())


def _from_sentencepiece(pieces: Sequence[str]) -> pa.Array:
    return pa.array([byte_piece(piece) or piece.replace("▁", " ").encode() for piece in pieces], pa.binary())


ALPHABETS: Mapping[str, Callable[[Sequence[str]], pa.Array]] = MappingProxyType(
    {"plain": _from_plain, "sentencepiece": _from_sentencepiece, "byte-level": all_from_alphabet}
)
"""Ways to spell bytes: the text itself; `▁` for a space and `<0xNN>` for a byte; GPT-2's byte alphabet."""


def find_alphabet(rows: Sequence[tuple[str, int]], owner: Vocabulary) -> str:
    """The name of `ALPHABETS` by which most spellings of a map denote the bytes that `owner` has for their ids.

    Of alphabets that do equally well, the first of `ALPHABETS`: a map of ASCII words without spaces is `plain`.
    """
    return _compare(rows, owner)[0]


def import_map(
    path: Path,
    owner: Vocabulary,
    others: Sequence[Vocabulary] = (),
    sister_maps: Mapping[str, Path] = MappingProxyType({}),
) -> SharedVocabulary:
    """The shared vocabulary that an index map stands for: its rows in its order, each row proven.

    A row is proven if its id is a text or byte token of `owner` whose bytes its spelling denotes, in the alphabet of
    `find_alphabet`. Where the id is an alias, the column holds the canonical id of the same bytes. The ids of the
    others are looked up by those bytes.

    Args:
        path: a map of `read_map`, with ids of `owner`.
        others: further tokenizers; each must have every row.
        sister_maps: name of a tokenizer of `others` -> the map that was published for it. It must hold the same
            tokens row by row.

    Raises:
        VocabkitError: as `read_map`; rows that are not `owner`'s tokens (the first are listed), counts in place of
            ids, two rows of the same bytes, a tokenizer that lacks rows or is given twice, a sister map that differs.
    """
    unknown = [name for name in sister_maps if name not in [other.name for other in others]]
    if unknown:
        raise VocabkitError(f"{sister_maps[unknown[0]]}: its tokenizer {quote(unknown[0])} is none of the others given")
    rows = read_map(path)
    ids = _prove(path, rows, owner)
    shared = make_shared(
        tokens=owner.tokens.take(pa.array(ids)),
        ids=ids[None],
        tokenizers=[TokenizerInfo.of(owner)],
        selection=Selection(at_least=1 + len(others), order=f"map:{path.name}"),
    )
    for other in others:
        shared = shared.extend(other)
        _refuse_missing(path, rows, shared, other.name)
    for name, sister in sister_maps.items():
        _compare_sister(path, sister, shared, next(other for other in others if other.name == name))
    return shared


def _prove(path: Path, rows: Sequence[tuple[str, int]], owner: Vocabulary) -> np.ndarray:
    """(R,) int32, the canonical ids of the rows in `owner`, or VocabkitError."""
    alphabet, proven = _compare(rows, owner)
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
    ids: np.ndarray = owner.canonical[np.array([token_id for _, token_id in rows])]
    distinct, first = np.unique(ids, return_index=True)
    if len(distinct) < len(ids):
        again = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        before = int(np.flatnonzero(ids == ids[again])[0])
        raise VocabkitError(
            f"{path}: rows {before} {quote(rows[before][0])} (id {rows[before][1]}) and {again} "
            f"{quote(rows[again][0])} (id {rows[again][1]}) are the same bytes {_short(owner.token(int(ids[again])))}; "
            "remove one of them"
        )
    return ids


def _compare(rows: Sequence[tuple[str, int]], owner: Vocabulary) -> tuple[str, np.ndarray]:
    """The alphabet that fits best, and (R,) bool: the rows that it proves."""
    ids = np.array([token_id for _, token_id in rows], np.int64)
    safe = np.where(ids < len(owner), ids, 0)
    usable = (ids < len(owner)) & _contributes(owner)[safe]
    expected = owner.tokens.take(pa.array(safe))
    proven: dict[str, np.ndarray] = {}
    for name, decode in ALPHABETS.items():
        proven[name] = _equal(decode([spelling for spelling, _ in rows]), expected) & usable
    best = max(proven, key=lambda name: int(proven[name].sum()))
    return best, proven[best]


def _refuse_missing(path: Path, rows: Sequence[tuple[str, int]], shared: SharedVocabulary, name: str) -> None:
    missing = np.flatnonzero(~shared.mask_for(name))
    if len(missing):
        listed = _listed(missing, lambda row: f"row {row} {quote(rows[row][0])} ({_short(shared.tokens[row])})")
        raise VocabkitError(
            f"{path}: {len(missing)} of {len(rows)} rows are no tokens of {name}: {listed}; "
            f"use fewer tokenizers: leave {name} out"
        )


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


def _compare_sister(path: Path, sister: Path, shared: SharedVocabulary, other: Vocabulary) -> None:
    rows = read_map(sister)
    if len(rows) != len(shared):
        raise VocabkitError(
            f"{sister}: {len(rows)} rows, but {path.name} has {len(shared)}; give two maps of the same size"
        )
    ids = _prove(sister, rows, other)
    wrong = np.flatnonzero(ids != shared.ids_for(other.name))
    if len(wrong):
        listed = _listed(wrong, lambda row: f"row {row} {quote(rows[row][0])} is {_short(shared.tokens[row])} there")
        raise VocabkitError(f"{sister}: {len(wrong)} of {len(rows)} rows differ from those of {path.name}: {listed}")


# ---- other tools' translations -----------------------------------------------------------------------------------


def spellings(vocabulary: Vocabulary) -> dict[str, int]:
    """Spelling -> id in id order, as `get_vocab()` of transformers has it, re-created from the bytes.

    Byte-level pieces in the byte alphabet; SentencePiece pieces with `▁` for a space and `<0xNN>` for byte-fallback;
    added tokens of byte-level vocabularies and special tokens literally.

    Raises VocabkitError: the source does not say how its tokenizer spells.
    """
    rules = load_rules(vocabulary)
    if rules is None:
        raise VocabkitError(
            f"{vocabulary.name}: {vocabulary.source} does not say how tokens are spelled; "
            'give a map {"source id": target id} instead of spellings'
        )
    own = (~np.isnan(rules.priority)).tolist()
    spelled: dict[str, int] = {}
    for i, (value, kind) in enumerate(zip(vocabulary.tokens.to_pylist(), vocabulary.kinds.tolist(), strict=True)):
        if value is None:
            continue
        if rules.spelling == "byte-level":
            spelling = to_alphabet(value) if own[i] and kind <= Kind.BYTE else value.decode("utf-8", "replace")
        elif kind == Kind.BYTE:
            spelling = f"<0x{value[0]:02X}>"
        else:
            text = value.decode("utf-8", "replace")
            spelling = text.replace(" ", "▁") if kind == Kind.TEXT else text
        spelled[spelling] = i
    return spelled


def spelling_translation(source: Mapping[str, int], target: Mapping[str, int]) -> np.ndarray:
    """Plain string equality: (P, 2) int64 of source id and target id for each spelling that both have.

    Args:
        source, target: spelling -> id, as `get_vocab()` or `spellings` gives.
    """
    pairs = [(token_id, target[spelling]) for spelling, token_id in source.items() if spelling in target]
    return np.array(pairs, np.int64).reshape(-1, 2)


def assistant_translation(source: Mapping[str, int], target: Mapping[str, int]) -> np.ndarray:
    """What assisted decoding with different tokenizers takes for equal, written anew for audits: (P, 2) int64.

    transformers 5.23.0 (`AssistantToTargetTranslator` in generation/candidate_generator.py) encodes a space with both
    tokenizers and takes the first character of the first piece as the tokenizer's sign for a space. Where the signs
    differ, an assistant spelling that starts with its sign gets the target's sign for that one character. Tokens are
    then the same if their strings are equal. So bytes beyond ASCII are spelled differently and missed, or, like `¡`,
    spelled the same and confused; further spaces in a token keep the wrong sign; special tokens match by spelling.

    Here the sign is the one of `Ġ` and `▁` with which more spellings start, as there is no tokenizer to ask; where two
    source spellings become equal, the later one in the mapping's order stays.

    Args:
        source, target: spelling -> id of the assistant and of the target, as `get_vocab()` or `spellings` gives.
    """
    sign, target_sign = _space_sign(source), _space_sign(target)
    if sign is None or target_sign is None or sign == target_sign:
        return spelling_translation(source, target)
    adapted = {(target_sign + key[1:] if key.startswith(sign) else key): i for key, i in source.items()}
    return spelling_translation(adapted, target)


def _space_sign(spelled: Mapping[str, int]) -> str | None:
    counts = {sign: sum(key.startswith(sign) for key in spelled) for sign in _SPACES}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None


# ---- auditing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One source id of an audit, and what it was translated to."""

    source_id: int
    source_token: bytes | None
    """Bytes or special spelling; None if there is no such id."""
    target_id: int | None
    """None: the translation has no match."""
    target_token: bytes | None
    expected_id: int | None
    """The canonical target id of the same bytes; None if no target token contributes them."""
    reason: str
    """`same bytes`, `alias`, `same role`; `other bytes`, `special`, `no such id`; `no match`."""


@dataclass(frozen=True)
class Audit:
    """A translation of `pairs` ids from `source` to `target`, compared with ours.

    right + wrong + unjudged = pairs. Missed tokens are not among the pairs.
    """

    source: str
    target: str
    pairs: int
    expected: int
    """Distinct source tokens whose bytes some target token contributes: what align finds."""
    right: int
    right_by_alias: int
    """Of these, with a target id that is an alias: the same bytes, but not the id that the tokenizer uses."""
    wrong: int
    wrong_special: int
    """Of these, with a special or unused id on one side or both, and roles that do not agree."""
    wrong_range: int
    """Of these, with an id that the source or the target does not have."""
    missed: int
    """Expected tokens without a pair."""
    unjudged: int
    """Special or unused ids on both sides that have no known role: their spelling proves nothing."""
    examples_right: tuple[Case, ...]
    examples_wrong: tuple[Case, ...]
    examples_missed: tuple[Case, ...]


def audit(
    pairs: np.ndarray | Sequence[tuple[int, int]], source: Vocabulary, target: Vocabulary, *, examples: int = 6
) -> Audit:
    """Judge a translation from ids of `source` to ids of `target`.

    A pair of text or byte tokens is right if both contribute the same bytes. A pair with a special or unused id is
    right if both ids have a role in common, whatever their spelling.

    Args:
        pairs: (P, 2) integers, source id and target id; each source id at most once.
        examples: how many cases of each sort to show, lowest source ids first.

    Raises:
        VocabkitError: a source id given twice.
    """
    table = np.asarray(pairs, np.int64).reshape(-1, 2)
    table = table[np.argsort(table[:, 0], kind="stable")]
    s, t = table[:, 0], table[:, 1]
    twice = np.flatnonzero(s[1:] == s[:-1])
    if len(twice):
        raise VocabkitError(f"source id {s[twice[0]]} of {source.name} is translated twice; give one target id for it")

    inside = (s >= 0) & (s < len(source)) & (t >= 0) & (t < len(target))
    safe_s, safe_t = np.where(inside, s, 0), np.where(inside, t, 0)
    text_s, text_t = source.kinds[safe_s] <= Kind.BYTE, target.kinds[safe_t] <= Kind.BYTE
    text = inside & text_s & text_t
    same_bytes = _equal(source.tokens.take(pa.array(safe_s)), target.tokens.take(pa.array(safe_t)))
    same_bytes &= text & _contributes(source)[safe_s]
    alias = same_bytes & (target.canonical[safe_t] != safe_t)
    same_role = np.zeros(len(s), bool)
    for role in source.roles.keys() & target.roles.keys():
        same_role |= (s == source.roles[role]) & (t == target.roles[role])
    has_role = np.isin(s, list(source.roles.values())) | np.isin(t, list(target.roles.values()))
    right = same_bytes | same_role
    unjudged = inside & ~text_s & ~text_t & ~has_role
    wrong = ~right & ~unjudged

    ours = _translate(source, target)
    missed = ours >= 0
    missed[~source.alignable] = False
    expected = int(missed.sum())
    missed[s[(s >= 0) & (s < len(source))]] = False

    def case(at: int) -> Case:
        source_id, target_id = int(s[at]), int(t[at])
        if right[at]:
            reason = "same role" if same_role[at] else "alias" if alias[at] else "same bytes"
        else:
            reason = "other bytes" if text[at] else "special" if inside[at] else "no such id"
        return _case(source, target, ours, source_id, target_id, reason)

    return Audit(
        source=source.name,
        target=target.name,
        pairs=len(s),
        expected=expected,
        right=int(right.sum()),
        right_by_alias=int(alias.sum()),
        wrong=int(wrong.sum()),
        wrong_special=int((wrong & inside & ~text).sum()),
        wrong_range=int((~inside).sum()),
        missed=int(missed.sum()),
        unjudged=int(unjudged.sum()),
        examples_right=tuple(case(int(at)) for at in np.flatnonzero(right)[:examples]),
        examples_wrong=tuple(case(int(at)) for at in np.flatnonzero(wrong)[:examples]),
        examples_missed=tuple(
            _case(source, target, ours, int(i), None, "no match") for i in np.flatnonzero(missed)[:examples]
        ),
    )


def _translate(source: Vocabulary, target: Vocabulary) -> np.ndarray:
    """(V of source,) int32: the canonical target id of the same bytes, -1 where there is none."""
    ids = np.flatnonzero(target.alignable).astype(np.int32)
    found = pc.index_in(source.tokens, target.tokens.take(pa.array(ids))).fill_null(-1).to_numpy()
    return np.where((found >= 0) & _contributes(source), ids[found], np.int32(-1))


def _case(
    source: Vocabulary, target: Vocabulary, ours: np.ndarray, source_id: int, target_id: int | None, reason: str
) -> Case:
    known = 0 <= source_id < len(source)
    expected = int(ours[source_id]) if known else -1
    return Case(
        source_id=source_id,
        source_token=source.token(source_id) if known else None,
        target_id=target_id,
        target_token=target.token(target_id) if target_id is not None and 0 <= target_id < len(target) else None,
        expected_id=expected if expected >= 0 else None,
        reason=reason,
    )


# ---- helpers -----------------------------------------------------------------------------------------------------


def _contributes(vocabulary: Vocabulary) -> np.ndarray:
    """(V,) bool: ids that contribute at least one byte to text, aliases included."""
    mask: np.ndarray = (vocabulary.kinds <= Kind.BYTE) & (np.diff(token_buffers(vocabulary.tokens)[0]) > 0)
    return mask


def _equal(a: pa.Array, b: pa.Array) -> np.ndarray:
    """Bool per element; a null equals nothing."""
    result: np.ndarray = pc.equal(a, b).fill_null(False).to_numpy(zero_copy_only=False)
    return result


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


def _short(value: Any) -> str:
    """Bytes, or a number or text of a file, for a message."""
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"
