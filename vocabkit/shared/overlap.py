"""overlap: what two or more tokenizers have in common, as numbers and examples."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import take, token_buffers
from vocabkit.errors import VocabkitError
from vocabkit.shared.align import align
from vocabkit.tokenizer.load import load_tokenizers
from vocabkit.tokenizer.segmenter import Piece, spell, unreachable
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from vocabkit.tokenizer.load import AnyTokenizer


QUICK_IDS = 50_000
"""Up to this size, finding unreachable tokens takes less than a second: about 20 µs per id."""


@dataclass(frozen=True)
class Spelled:
    """A token and the pieces that a tokenizer cuts it into; None if it can't, or doesn't say how."""

    token: bytes
    pieces: tuple[Piece, ...] | None


@dataclass(frozen=True)
class Lacking:
    """Tokens that every other tokenizer has and this one lacks. With two tokenizers: what only the other has."""

    count: int
    examples: tuple[Spelled, ...]


@dataclass(frozen=True)
class Unreachable:
    """Text tokens that the tokenizer does not make of their own text."""

    count: int
    shared_by_all: int
    """Of these, shared by all tokenizers."""
    examples: tuple[Spelled, ...]
    """With what it makes of their text, also of other bytes: BERT makes ` 一`, which starts a word, of `##一`."""


@dataclass(frozen=True)
class Alias:
    """One byte string with several ids."""

    token: bytes
    ids: tuple[int, ...]
    """The canonical id first."""


@dataclass(frozen=True)
class Summary:
    """One tokenizer."""

    name: str
    source: str
    size: int
    """Number of ids, highest id + 1."""
    kinds: dict[str, int]
    """Ids per kind: text, byte, special, unused."""
    distinct: int
    """Number of distinct token bytes, which can be shared."""
    partial_utf8: int
    """Distinct tokens that aren't valid UTF-8."""
    in_no_other: int
    """Distinct tokens that no other tokenizer has."""
    lacks: Lacking
    aliases: int
    """Ids that spell the same bytes as another id of this tokenizer."""
    alias_examples: tuple[Alias, ...]
    special_without_role: tuple[str, ...]
    """Spellings of special tokens without a role, which are never aligned."""
    embedding_rows: int | None
    width: int | None
    notes: tuple[str, ...]
    mass_shared_by_all: float | None = None
    """Share of the corpus, cut with this tokenizer, in tokens shared by all; None without a corpus."""
    unreachable: Unreachable | None = None
    """None if not counted: see `overlap`."""


@dataclass(frozen=True)
class Row:
    """One class of a breakdown."""

    label: str
    distinct: tuple[int, ...]
    """Distinct tokens of this class in each tokenizer."""
    shared_by_all: int


@dataclass(frozen=True)
class RoleToken:
    """A special token that has a role."""

    id: int
    spelling: str


@dataclass(frozen=True)
class Role:
    """A role of special tokens, and its token in each tokenizer; None where there is none."""

    role: str
    tokens: tuple[RoleToken | None, ...]


@dataclass(frozen=True, eq=False)
class Overlap:
    """The overlap of K tokenizers. Numbers count distinct token bytes, without special and unused ids."""

    tokenizers: tuple[Summary, ...]
    """K, in the order given, like the rows and columns of the matrices."""
    shared_by_all: int
    shared_by_all_partial_utf8: int
    union: int
    """Tokens that any of them has."""
    shared: np.ndarray
    """(K, K) int64: tokens that both have."""
    coverage: np.ndarray
    """(K, K) float64: share of the row's tokens that the column also has."""
    jaccard: np.ndarray
    """(K, K) float64: shared / tokens of both together."""
    mass: np.ndarray | None
    """(K, K) float64: share of the corpus, cut with the row's tokenizer, in tokens that the column also has. None
    without a corpus."""
    by_kind: tuple[Row, ...]
    by_script: tuple[Row, ...]
    """Largest first."""
    by_length: tuple[Row, ...]
    roles: tuple[Role, ...]
    """Every role that some tokenizer has."""

    def __repr__(self) -> str:
        return f"Overlap({', '.join(each.name for each in self.tokenizers)}: {self.shared_by_all:,} shared by all)"


def overlap(
    tokenizers: Sequence[AnyTokenizer],
    *,
    examples: int = 8,
    reachability: bool | None = None,
    counts: Mapping[str, np.ndarray] | None = None,
) -> Overlap:
    """Compare 2 to 50 tokenizers.

    Args:
        tokenizers: each as `load_tokenizer` takes it.
        examples: how many tokens to show of each kind, of different scripts.
        reachability: whether to find unreachable tokens, which takes seconds for a large tokenizer. By default, of
            tokenizers of at most `QUICK_IDS` ids whose source says how text is cut.
        counts: corpus counts (V,) int64 for each tokenizer by name, at canonical ids, for coverage by mass.

    Raises VocabkitError as `align` does; with `reachability`, if a source does not say how text is cut.
    """
    vocabularies = load_tokenizers(tokenizers)
    union = align(vocabularies, at_least=1)
    ids = np.stack([union.ids_with_gaps(name) for name in union.names])  # (K, U)
    has = ids >= 0
    everywhere = np.all(has, axis=0)
    owners = has.sum(axis=0)
    script, script_names = scripts(union.tokens)
    partial = script == (script_names.index(PARTIAL_UTF8) if PARTIAL_UTF8 in script_names else -1)
    shared = np.array([(has & row).sum(axis=1) for row in has])  # (K, K)
    distinct = shared.diagonal()
    mass, mass_of_all = _mass(union.names, ids, has, everywhere, counts)

    def never(v: Vocabulary, shared_ids: np.ndarray) -> Unreachable | None:
        if not reachability and (reachability is not None or len(v) > QUICK_IDS):
            return None
        try:
            return _unreachable(v, shared_ids, examples)
        except VocabkitError:
            if reachability:
                raise
            return None

    def summary(at: int) -> Summary:
        v = vocabularies[at]
        lacking = np.flatnonzero((owners == len(vocabularies) - 1) & ~has[at])
        lacked = take(union.tokens, varied(lacking, script[lacking], examples)).to_pylist()
        kinds = np.bincount(v.kinds, minlength=len(Kind)).tolist()
        return Summary(
            name=v.name,
            source=v.source,
            size=len(v),
            kinds={kind.name.lower(): kinds[kind] for kind in Kind},
            distinct=int(distinct[at]),
            partial_utf8=int((has[at] & partial).sum()),
            in_no_other=int((has[at] & (owners == 1)).sum()),
            lacks=Lacking(len(lacking), _spelled(v, lacked)),
            aliases=int((v.canonical != np.arange(len(v))).sum()),
            alias_examples=_alias_examples(v, examples),
            special_without_role=_special_without_role(v),
            embedding_rows=v.embedding_rows,
            width=v.width,
            notes=v.notes,
            mass_shared_by_all=None if mass_of_all is None else float(mass_of_all[at]),
            unreachable=never(v, ids[at][everywhere]),
        )

    return Overlap(
        tokenizers=tuple(summary(at) for at in range(len(vocabularies))),
        shared_by_all=int(everywhere.sum()),
        shared_by_all_partial_utf8=int((everywhere & partial).sum()),
        union=len(union),
        shared=shared,
        coverage=shared / np.maximum(distinct[:, None], 1),
        jaccard=shared / np.maximum(distinct[:, None] + distinct - shared, 1),
        mass=mass,
        by_kind=_by_kind(vocabularies, ids, everywhere),
        by_script=_by_size(_breakdown(script, script_names, has, everywhere)),
        by_length=_breakdown(length_classes(union.tokens), LENGTHS, has, everywhere),
        roles=_roles(vocabularies),
    )


def _mass(
    names: Sequence[str],
    ids: np.ndarray,
    has: np.ndarray,
    everywhere: np.ndarray,
    counts: Mapping[str, np.ndarray] | None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return shares of the corpus in shared tokens: (K, K) for each pair, (K,) for all."""
    if counts is None:
        return None, None
    pairs, together = [], []
    for name, own, mask in zip(names, ids, has, strict=True):
        share = np.where(mask, counts[name][own], 0) / max(int(counts[name].sum()), 1)  # (U,)
        pairs.append([share[row & mask].sum() for row in has])
        together.append(share[everywhere].sum())
    return np.array(pairs), np.array(together)


def _by_kind(vocabularies: Sequence[Vocabulary], ids: np.ndarray, everywhere: np.ndarray) -> tuple[Row, ...]:
    """Break down by text and byte-fallback pieces; a shared token has the kind in at least one tokenizer."""
    byte = np.stack([(v.kinds[own] == Kind.BYTE) & (own >= 0) for v, own in zip(vocabularies, ids, strict=True)])
    text = (ids >= 0) & ~byte
    any_byte = byte.any(axis=0)
    return (
        Row("text", tuple(text.sum(axis=1).tolist()), int((everywhere & ~any_byte).sum())),
        Row("byte", tuple(byte.sum(axis=1).tolist()), int((everywhere & any_byte).sum())),
    )


def _breakdown(codes: np.ndarray, labels: Sequence[str], has: np.ndarray, everywhere: np.ndarray) -> tuple[Row, ...]:
    distinct = np.stack([np.bincount(codes[mask], minlength=len(labels)) for mask in has])  # (K, classes)
    shared = np.bincount(codes[everywhere], minlength=len(labels))
    return tuple(Row(label, tuple(distinct[:, i].tolist()), int(shared[i])) for i, label in enumerate(labels))


def _by_size(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: (-max(row.distinct), row.label)))


def _spelled(vocabulary: Vocabulary, tokens: Sequence[bytes]) -> tuple[Spelled, ...]:
    return tuple(map(Spelled, tokens, spell(vocabulary, tokens) if tokens else ()))


def _unreachable(vocabulary: Vocabulary, shared_ids: np.ndarray, examples: int) -> Unreachable:
    instead = unreachable(vocabulary)
    ids = np.array(list(instead), np.int64)
    script, _ = scripts(take(vocabulary.tokens, ids))
    shown = [
        Spelled(vocabulary.token(i) or b"", tuple(Piece(each, vocabulary.token(each) or b"") for each in instead[i]))
        for i in varied(ids, script, examples).tolist()
    ]
    return Unreachable(len(ids), int(np.isin(ids, shared_ids).sum()), tuple(shown))


def _alias_examples(vocabulary: Vocabulary, examples: int) -> tuple[Alias, ...]:
    aliases = sorted(vocabulary.aliases().items())[:examples]
    return tuple(Alias(vocabulary.token(canonical) or b"", (canonical, *others)) for canonical, others in aliases)


def _roles(vocabularies: Sequence[Vocabulary]) -> tuple[Role, ...]:
    every = sorted({role for vocabulary in vocabularies for role in vocabulary.roles})
    return tuple(Role(role, tuple(_role_token(vocabulary, role) for vocabulary in vocabularies)) for role in every)


def _role_token(vocabulary: Vocabulary, role: str) -> RoleToken | None:
    token_id = vocabulary.roles.get(role)
    return None if token_id is None else RoleToken(token_id, _spelling(vocabulary, token_id))


def _special_without_role(vocabulary: Vocabulary) -> tuple[str, ...]:
    special = np.flatnonzero(vocabulary.kinds == Kind.SPECIAL).tolist()
    mapped = set(vocabulary.roles.values())
    return tuple(_spelling(vocabulary, i) for i in special if i not in mapped)


def _spelling(vocabulary: Vocabulary, token_id: int) -> str:
    return (vocabulary.token(token_id) or b"").decode("utf-8", "replace")


# ---- script and length of tokens -------------------------------------------------------------------------------------


PARTIAL_UTF8 = "partial UTF-8"
LENGTHS = ("1", "2", "3", "4", "5-8", "9-16", "17+")
"""Classes of token lengths in bytes."""
_LENGTH_STARTS = np.array([2, 3, 4, 5, 9, 17])
_ASCII_LETTER = re.compile(rb"[A-Za-z]")
_MAYBE_LETTER = re.compile(r"[^\W\d_]")
_SCRIPT_OF = {"cjk": "Han", "ideographic": "Han", "modifier": "symbols", "caron": "symbols"}
_TWO_WORDS = {"canadian", "inscriptional", "meetei", "ol", "old", "tai"}
"""First words of script names that mean nothing alone: Old Persian, Tai Le."""


def scripts(tokens: pa.Array) -> tuple[np.ndarray, tuple[str, ...]]:
    """The script of each token's first letter (`Latin`, `Han`, ...), else `digits`, `whitespace`, `symbols` or
    `partial UTF-8`: codes (V,) int32, and the names that they index.

    Scripts are told from the first word of the letter's Unicode name, which Python carries. Variants count as the
    letter that they stand for: a fullwidth or mathematical A is Latin.
    """
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(_script(token), len(numbers)) for token in tokens.to_pylist()]
    return np.array(codes, np.int32), tuple(numbers)


def length_classes(tokens: pa.Array) -> np.ndarray:
    """Return the index into `LENGTHS` of each token, none of them empty: (V,) int64."""
    classes: np.ndarray = np.searchsorted(_LENGTH_STARTS, np.diff(token_buffers(tokens)[0]), side="right")
    return classes


def varied(rows: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` of `rows` as examples: the first of each class, largest class first, then the second, and so on.

    Args:
        rows: (R,) int64.
        classes: (R,) int32, the class of each row.
    """
    order = np.argsort(classes, kind="stable")
    _, start, size = np.unique(classes[order], return_index=True, return_counts=True)
    turn = np.arange(len(rows)) - np.repeat(start, size)
    chosen: np.ndarray = rows[order][np.lexsort((-np.repeat(size, size), turn))[:count]]
    return chosen


def _script(token: bytes) -> str:
    if _ASCII_LETTER.search(token) and token.isascii():  # most tokens, told without decoding them
        return "Latin"
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return PARTIAL_UTF8
    for match in _MAYBE_LETTER.finditer(text):
        if script := _letter_script(match[0]):
            return script
    if text.isspace():
        return "whitespace"
    return "digits" if any(character.isdigit() for character in text) else "symbols"


@cache
def _letter_script(character: str) -> str | None:
    """The script of a letter; None for what only looks like one, such as a circled digit."""
    letter = unicodedata.normalize("NFKC", character)[0]
    if not letter.isalpha():
        return None
    words = unicodedata.name(letter, "other letters").replace("-", " ").lower().split()
    if words[0] in _TWO_WORDS:
        return " ".join(words[:2]).title()
    return _SCRIPT_OF.get(words[0], words[0].capitalize())
