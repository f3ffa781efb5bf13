"""Audit other tools' token translations: pairs that are right, wrong and missed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vocabkit.arrow.arrow_file import take
from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.maps import checked_ids, keyed_rows, read_json, read_map
from vocabkit.shared.overlap import scripts, varied
from vocabkit.tokenizer.segmentation import load_rules, parse, refusing_damaged
from vocabkit.tokenizer.segmentation import spellings as spellings_of
from vocabkit.tokenizer.special_tokens import library_ids
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

_SPACE_SIGNS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies spell a leading space."""


# ---- translations ------------------------------------------------------------------------------------------------


def spellings(vocabulary: Vocabulary) -> dict[str, int]:
    """Map spellings to ids in id order, like `get_vocab()` of transformers, re-created from the
    bytes where the source is no tokenizer.json.

    Raises VocabkitError: the source does not say how its tokenizer spells.
    """
    if isinstance(vocabulary.segmentation, Path | bytes):
        with refusing_damaged(vocabulary):
            return _spellings_of_json(parse(vocabulary.segmentation))
    rules = load_rules(vocabulary)
    if rules is None:
        raise VocabkitError(
            f"{vocabulary.name}: {vocabulary.source} does not say how tokens are spelled; "
            'give a map {"source id": target id} instead of spellings'
        )
    spelled = spellings_of(vocabulary, rules, np.arange(len(vocabulary)))
    return {spelling: i for i, spelling in enumerate(spelled) if spelling is not None}


def _spellings_of_json(content: Mapping[str, Any]) -> dict[str, int]:
    vocab = content["model"]["vocab"]
    pieces = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    added = library_ids([token["content"] for token in content.get("added_tokens") or ()], pieces, len(vocab))
    return dict(sorted({**pieces, **added}.items(), key=lambda each: each[1]))


def spelling_translation(source: Mapping[str, int], target: Mapping[str, int]) -> np.ndarray:
    """Match by plain string equality: (P, 2) int64, source id and target id of each spelling that both have.

    Args:
        source, target: spelling -> id, as `get_vocab()` or `spellings` gives.
    """
    pairs = [(token_id, target[spelling]) for spelling, token_id in source.items() if spelling in target]
    return np.array(pairs, np.int64).reshape(-1, 2)


def assistant_translation(source: Mapping[str, int], target: Mapping[str, int]) -> np.ndarray:
    """Match as assisted decoding with different tokenizers does, rewritten for audits: (P, 2) int64.

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


def tli_translation(source: Mapping[str, int], target: Mapping[str, int]) -> np.ndarray:
    """Match as vLLM's speculative decoding with two vocabularies does, rewritten for audits: (P, 2) int64.

    vLLM 0.32.0 (`VocabMapping` in v1/spec_decode/vocab_mapping.py) replaces the sign for a space at the start of each
    spelling by a space, and takes tokens for the same if the strings are equal; of equal strings in one vocabulary, the
    first counts. The sign is found by encoding " a"; here it is that of `assistant_translation`.

    Args:
        source, target: spelling -> id of the draft and of the target, as `get_vocab()` or `spellings` gives.
    """
    spaced = []
    for vocabulary in (source, target):
        sign = _space_sign(vocabulary)
        signs = _SPACE_SIGNS if sign is None else (sign,)
        named: dict[str, int] = {}
        for spelling, token_id in vocabulary.items():
            prefix = next((each for each in signs if spelling.startswith(each)), "")
            named.setdefault(" " + spelling.removeprefix(prefix) if prefix else spelling, token_id)
        spaced.append(named)
    return spelling_translation(*spaced)


TRANSLATIONS: Mapping[str, Callable[[Mapping[str, int], Mapping[str, int]], np.ndarray]] = MappingProxyType(
    {
        "spelling": spelling_translation,
        "assistant": assistant_translation,
        "tli": tli_translation,
        "gold": spelling_translation,
    }
)
"""Matchers of other tools, by name. `gold` is the hybrid loss of TRL 1.16.0, teacher to student: equality of
spellings (`GOLDTrainer._initialize_vocabulary_mapping`)."""


def _own_pairs(path: Path, rows: list[Any]) -> np.ndarray:
    """Pairs of a token map that `TokenMap.save` wrote."""
    try:
        named = [dict(row) for row in rows]  # an object is read as a list of its pairs
        matched = [(str(row["id"]), row["target_ids"][0]) for row in named if row["match"] == "token"]
    except (LookupError, TypeError, ValueError) as error:
        raise VocabkitError(f"{path}: not a token map as `vocabkit map` writes it ({quote(repr(error))})") from error
    pairs = checked_ids(path, [pair for pair in matched if pair[0].isdecimal()])
    return np.array([(int(key), value) for key, value in pairs], np.int64).reshape(-1, 2)


def read_translation(path: str | Path, source: Vocabulary, target_map: str | Path | None = None) -> np.ndarray:
    """Read a translation between two tokenizers for `audit`: (P, 2) int64, columns source id and target id.

    It has one of five forms: the JSON of `vocabkit map`, of which matches by token count; an object
    `{"source id": target id}`; a list whose n-th element is the target id of source id n; an index map
    `{source spelling: target id}` in a layout of `read_map`, its keys spelled as by `spellings(source)`; or, with
    `target_map`, two index maps of one V_shared, `path` with ids of the source and `target_map` with ids of the target,
    joined by spelling. Keys are ids if all of them are decimal digits. A target id of null or -1 means no match, and
    is left out.

    Raises:
        VocabkitError: as `read_map`; a spelling that the source or the other map lacks.
    """
    path = Path(path)
    if target_map is not None:
        target_map = Path(target_map)
        source_ids, target_ids = dict(read_map(path)), dict(read_map(target_map))
        _refuse_unknown(path, source_ids, target_ids, f"{target_map.name}: give two maps of the same size")
        _refuse_unknown(target_map, target_ids, source_ids, f"{path.name}: give two maps of the same size")
        return np.array([(i, target_ids[spelling]) for spelling, i in source_ids.items()], np.int64)
    content = read_json(path)
    if isinstance(content, tuple) and isinstance(own := dict(content).get("map"), list):
        return _own_pairs(path, own)
    if isinstance(content, list) and all(value is None or type(value) is int for value in content):
        keyed = [(str(i), value) for i, value in enumerate(content)]
    else:
        keyed = keyed_rows(path, content)
    matched = checked_ids(path, [(key, value) for key, value in keyed if value is not None and value != -1])
    if all(re.fullmatch("[0-9]{1,18}", key) for key, _ in keyed):
        return np.array([(int(key), value) for key, value in matched], np.int64).reshape(-1, 2)
    ids = spellings(source)
    _refuse_unknown(path, dict(keyed), ids, f'{source.name}: give another source, or a map {{"source id": target id}}')
    return np.array([(ids[key], value) for key, value in matched], np.int64).reshape(-1, 2)


def _space_sign(spelled: Mapping[str, int]) -> str | None:
    counts = {sign: sum(key.startswith(sign) for key in spelled) for sign in _SPACE_SIGNS}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None


def _refuse_unknown(path: Path, rows: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    unknown = [key for key in rows if key not in known]
    if unknown:
        listed = ", ".join(map(quote, unknown[:5]))
        raise VocabkitError(f"{path}: {len(unknown)} of {len(rows)} spellings ({listed}) are not in {where}")


# ---- audit -------------------------------------------------------------------------------------------------------

RIGHT = ("same bytes", "alias", "same role")
"""Reasons why a pair is right. `alias`: the same bytes, but not the target id that its tokenizer uses."""
WRONG = ("other bytes", "special", "no such id")
"""Reasons why a pair is wrong. `special`: a special or unused id on one side or both, and roles that do not agree."""
UNJUDGED = "no role"
"""Special or unused ids on both sides that have no known role: their spelling proves nothing."""
_REASONS = (*RIGHT, *WRONG, UNJUDGED)


@dataclass(frozen=True)
class Case:
    """One source id of an audit and its translation."""

    source_id: int
    source_token: bytes | None
    """Bytes or special spelling; None if there is no such id."""
    target_id: int | None
    """None: the translation has no match."""
    target_token: bytes | None
    expected_id: int | None
    """Canonical target id of the same bytes; None if no target token has them."""
    reason: str
    """One of `WRONG`, or `no match`."""


@dataclass(frozen=True)
class Audit:
    """A translation of `pairs` ids from `source` to `target`, compared with ours.

    right + wrong + unjudged = pairs. Missed tokens are not among the pairs.
    """

    source: str
    target: str
    pairs: int
    expected: int
    """Distinct source tokens whose bytes a target token has, as align finds them."""
    right: int
    wrong: int
    unjudged: int
    missed: int
    """Expected tokens without a pair."""
    by_reason: dict[str, int]
    """Pairs for each reason of `RIGHT`, `WRONG` and `UNJUDGED`."""
    wrong_examples: tuple[Case, ...]
    missed_examples: tuple[Case, ...]

    def __repr__(self) -> str:
        counts = f"{self.right:,} right, {self.wrong:,} wrong, {self.missed:,} missed"
        return f"Audit({self.source} to {self.target}: {counts})"


def audit(
    pairs: np.ndarray | Sequence[tuple[int, int]], source: Vocabulary, target: Vocabulary, *, examples: int = 6
) -> Audit:
    """Judge a translation from ids of `source` to ids of `target`.

    A pair of text or byte tokens is right if both contribute the same bytes. A pair with a special or unused id is
    right if both ids have a role in common, whatever their spelling.

    Args:
        pairs: (P, 2) integers, source id and target id; each source id at most once.
        examples: how many cases of each sort to show: wrong ones of every reason, missed ones of different scripts.

    Raises:
        VocabkitError: a source id given twice.
    """
    table = np.asarray(pairs, np.int64).reshape(-1, 2)
    s, t = table[np.argsort(table[:, 0], kind="stable")].T
    twice = np.flatnonzero(s[1:] == s[:-1])
    if len(twice):
        raise VocabkitError(f"source id {s[twice[0]]} of {source.name} is translated twice; give one target id for it")

    ours = _translate(source, target)
    reasons = _judge(s, t, source, target, ours)
    counts = {reason: int((reasons == at).sum()) for at, reason in enumerate(_REASONS)}
    wrong = np.flatnonzero((reasons >= len(RIGHT)) & (reasons < len(RIGHT) + len(WRONG)))
    expected = source.alignable & (ours >= 0)
    missed = expected.copy()
    missed[s[(s >= 0) & (s < len(source))]] = False
    missed_ids = np.flatnonzero(missed)
    missed_scripts, _ = scripts(take(source.tokens, missed_ids))

    def case(source_id: int, target_id: int | None, reason: str) -> Case:
        known = 0 <= source_id < len(source)
        return Case(
            source_id=source_id,
            source_token=source.token(source_id) if known else None,
            target_id=target_id,
            target_token=target.token(target_id) if target_id is not None and 0 <= target_id < len(target) else None,
            expected_id=int(ours[source_id]) if known and ours[source_id] >= 0 else None,
            reason=reason,
        )

    return Audit(
        source=source.name,
        target=target.name,
        pairs=len(s),
        expected=int(expected.sum()),
        right=sum(counts[reason] for reason in RIGHT),
        wrong=len(wrong),
        unjudged=counts[UNJUDGED],
        missed=len(missed_ids),
        by_reason=counts,
        wrong_examples=tuple(
            case(int(s[at]), int(t[at]), _REASONS[reasons[at]]) for at in varied(wrong, reasons[wrong], examples)
        ),
        missed_examples=tuple(
            case(int(token_id), None, "no match") for token_id in varied(missed_ids, missed_scripts, examples)
        ),
    )


def _judge(s: np.ndarray, t: np.ndarray, source: Vocabulary, target: Vocabulary, ours: np.ndarray) -> np.ndarray:
    """Return the index into `_REASONS` of each pair of ids: (P,)."""
    inside = (s >= 0) & (s < len(source)) & (t >= 0) & (t < len(target))
    safe_s, safe_t = np.where(inside, s, 0), np.where(inside, t, 0)
    text_s, text_t = source.kinds[safe_s] <= Kind.BYTE, target.kinds[safe_t] <= Kind.BYTE
    same_bytes = text_s & text_t & (ours[safe_s] == target.canonical[safe_t])
    same_role = np.zeros(len(s), bool)
    for role in source.roles.keys() & target.roles.keys():
        same_role |= (s == source.roles[role]) & (t == target.roles[role])
    has_role = np.isin(s, list(source.roles.values())) | np.isin(t, list(target.roles.values()))
    order = {
        "no such id": ~inside,
        "same bytes": same_bytes & (target.canonical[safe_t] == safe_t),
        "alias": same_bytes,
        "same role": same_role,
        "other bytes": text_s & text_t,
        UNJUDGED: ~text_s & ~text_t & ~has_role,
    }
    found: np.ndarray = np.select(list(order.values()), list(map(_REASONS.index, order)), _REASONS.index("special"))
    return found


def _translate(source: Vocabulary, target: Vocabulary) -> np.ndarray:
    """Return the canonical target id of the same bytes for each source id, -1 if none: (V of source,) int32."""
    return np.where(source.alignable[source.canonical], target.ids_of(source.tokens), np.int32(-1))
