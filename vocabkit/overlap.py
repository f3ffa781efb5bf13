"""What two or more vocabularies have in common, as numbers and examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vocabkit.alignment import align
from vocabkit.errors import VocabkitError
from vocabkit.segmentation import Segmenter, load_tokenizer
from vocabkit.shared import SharedVocabulary
from vocabkit.token_properties import LENGTHS, PARTIAL_UTF8, length_classes, scripts
from vocabkit.vocabulary import Kind, Vocabulary


@dataclass(frozen=True)
class Summary:
    """One tokenizer."""

    name: str
    source: str
    size: int
    """Ids, highest id + 1."""
    kinds: dict[str, int]
    """Ids per kind: text, byte, special, unused."""
    distinct: int
    """Distinct byte strings that one token contributes to text: what can be shared."""
    aliases: int
    """Ids that spell the same bytes as another id of this tokenizer."""
    partial_utf8: int
    """Of the distinct tokens, those that are not valid UTF-8."""
    embedding_rows: int | None
    width: int | None
    notes: tuple[str, ...]
    unreachable: int | None = None
    """Text tokens that the tokenizer does not produce for their own text; None if not asked for."""


@dataclass(frozen=True)
class Pair:
    """Two tokenizers a and b."""

    a: str
    b: str
    shared: int
    jaccard: float
    """shared / distinct tokens of both together"""
    coverage_a: float
    """shared / distinct tokens of a"""
    coverage_b: float
    mass_a: float | None = None
    """Share of the corpus, cut with a, that shared tokens make up; None without a corpus."""
    mass_b: float | None = None


@dataclass(frozen=True)
class Row:
    """One class of a breakdown."""

    label: str
    distinct: tuple[int, ...]
    """Distinct tokens of this class in each tokenizer."""
    shared: int
    """Of these, shared by all."""


@dataclass(frozen=True)
class OneSided:
    """What `has` has and `lacks` lacks."""

    has: str
    lacks: str
    count: int
    examples: tuple[tuple[int, bytes, tuple[bytes, ...] | None], ...]
    """id in `has`, bytes, and how `lacks` spells them; None if it can't."""


@dataclass(frozen=True)
class Role:
    """A role of special tokens: id and spelling in each tokenizer, None where it has no such token."""

    role: str
    tokens: tuple[tuple[int, str] | None, ...]


@dataclass(frozen=True)
class Overlap:
    """The overlap of K tokenizers, all numbers over distinct token bytes."""

    tokenizers: tuple[Summary, ...]
    shared_by_all: int
    shared_partial_utf8: int
    pairs: tuple[Pair, ...]
    by_kind: tuple[Row, ...]
    by_script: tuple[Row, ...]
    by_length: tuple[Row, ...]
    one_sided: tuple[OneSided, ...]
    aliases: dict[str, tuple[tuple[bytes, tuple[int, ...]], ...]]
    """Tokenizer -> examples of bytes with several ids, the canonical id first."""
    roles: tuple[Role, ...]
    unmapped_special: dict[str, tuple[str, ...]]
    """Tokenizer -> spellings of special tokens without a role: these never take part in an alignment."""


def overlap(
    vocabularies: Sequence[Vocabulary],
    *,
    examples: int = 8,
    reachability: bool = False,
    counts: Mapping[str, np.ndarray] | None = None,
) -> Overlap:
    """Compare 2 to 50 vocabularies.

    Args:
        examples: how many tokens to show of each kind.
        reachability: also count unreachable tokens (takes seconds per tokenizer).
        counts: corpus counts (V,) int64 per tokenizer name, canonical ids, for coverage by mass.

    Raises VocabkitError as `align` does.
    """
    union = align(vocabularies, at_least=1)
    masks = np.stack([union.mask_for(v.name) for v in vocabularies])  # (K, U)
    everywhere = masks.all(axis=0)
    properties = {"script": scripts(union.tokens), "length": length_classes(union.tokens)}
    partial = properties["script"] == PARTIAL_UTF8
    return Overlap(
        tokenizers=tuple(
            _summary(v, mask, partial, reachability) for v, mask in zip(vocabularies, masks, strict=True)
        ),
        shared_by_all=int(everywhere.sum()),
        shared_partial_utf8=int((everywhere & partial).sum()),
        pairs=tuple(
            _pair(union, masks, a, b, counts or {}) for a, b in itertools.combinations(range(len(vocabularies)), 2)
        ),
        by_kind=_by_kind(vocabularies, union, everywhere),
        by_script=_breakdown(properties["script"], masks, everywhere),
        by_length=_breakdown(properties["length"], masks, everywhere, LENGTHS),
        one_sided=_one_sided(vocabularies, union, masks, examples),
        aliases={v.name: _alias_examples(v, examples) for v in vocabularies},
        roles=_roles(vocabularies),
        unmapped_special={v.name: _unmapped(v) for v in vocabularies},
    )


def unreachable(vocabulary: Vocabulary) -> np.ndarray:
    """Ids (int64) of text tokens whose own text the tokenizer cuts in another way, so that they hardly ever come out
    of encode: the round trip of Land and Bartolo, "Fishing for Magikarp", 2024. Partial UTF-8 can't be tested so and
    is left out.

    Raises VocabkitError if the source does not say how text is cut.
    """
    tokenizer = load_tokenizer(vocabulary, mid_text=True)
    ids, texts = [], []
    for token_id in np.flatnonzero(vocabulary.alignable & (vocabulary.kinds == Kind.TEXT)).tolist():
        try:
            texts.append((vocabulary.token(token_id) or b"").decode())
            ids.append(token_id)
        except UnicodeDecodeError:
            continue
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.array([i for i, encoding in zip(ids, encodings, strict=True) if encoding.ids != [i]], np.int64)


def _summary(vocabulary: Vocabulary, mask: np.ndarray, partial: np.ndarray, reachability: bool) -> Summary:
    counts = np.bincount(vocabulary.kinds, minlength=len(Kind)).tolist()
    return Summary(
        name=vocabulary.name,
        source=vocabulary.source,
        size=len(vocabulary),
        kinds={kind.name.lower(): counts[kind] for kind in Kind},
        distinct=int(mask.sum()),
        aliases=int((vocabulary.canonical != np.arange(len(vocabulary))).sum()),
        partial_utf8=int((mask & partial).sum()),
        embedding_rows=vocabulary.embedding_rows,
        width=vocabulary.width,
        notes=vocabulary.notes,
        unreachable=len(unreachable(vocabulary)) if reachability else None,
    )


def _pair(union: SharedVocabulary, masks: np.ndarray, a: int, b: int, counts: Mapping[str, np.ndarray]) -> Pair:
    both = masks[a] & masks[b]
    shared, in_a, in_b = int(both.sum()), int(masks[a].sum()), int(masks[b].sum())
    masses = [_mass(union, union.names[i], both, counts.get(union.names[i])) for i in (a, b)]
    return Pair(
        a=union.names[a],
        b=union.names[b],
        shared=shared,
        jaccard=shared / (in_a + in_b - shared),
        coverage_a=shared / in_a,
        coverage_b=shared / in_b,
        mass_a=masses[0],
        mass_b=masses[1],
    )


def _mass(union: SharedVocabulary, name: str, rows: np.ndarray, counts: np.ndarray | None) -> float | None:
    if counts is None:
        return None
    ids = union.select(np.flatnonzero(rows)).ids_for(name)
    return float(counts[ids].sum() / max(counts.sum(), 1))


def _by_kind(vocabularies: Sequence[Vocabulary], union: SharedVocabulary, everywhere: np.ndarray) -> tuple[Row, ...]:
    """Shared tokens that are text in every tokenizer, and those that are a byte piece in some."""
    kinds = np.zeros((len(vocabularies), len(union)), np.uint8)
    for row, vocabulary in zip(kinds, vocabularies, strict=True):
        ids = union.only_with(vocabulary.name).ids_for(vocabulary.name)
        row[union.mask_for(vocabulary.name)] = vocabulary.kinds[ids]
    is_byte = kinds == Kind.BYTE
    masks = np.stack([union.mask_for(v.name) for v in vocabularies])
    any_byte = is_byte.any(axis=0)
    return (
        Row("text", tuple((masks & ~is_byte).sum(axis=1).tolist()), int((everywhere & ~any_byte).sum())),
        Row("byte", tuple(is_byte.sum(axis=1).tolist()), int((everywhere & any_byte).sum())),
    )


def _breakdown(
    labels: np.ndarray, masks: np.ndarray, everywhere: np.ndarray, order: Sequence[str] | None = None
) -> tuple[Row, ...]:
    names, codes = np.unique(labels, return_inverse=True)
    per_tokenizer = np.stack([np.bincount(codes[mask], minlength=len(names)) for mask in masks])
    shared = np.bincount(codes[everywhere], minlength=len(names))
    rows = [Row(str(n), tuple(per_tokenizer[:, i].tolist()), int(shared[i])) for i, n in enumerate(names)]
    if order is not None:
        return tuple(sorted(rows, key=lambda row: order.index(row.label)))
    return tuple(sorted(rows, key=lambda row: (-max(row.distinct), row.label)))


def _one_sided(
    vocabularies: Sequence[Vocabulary], union: SharedVocabulary, masks: np.ndarray, examples: int
) -> tuple[OneSided, ...]:
    segmenters = [_segmenter(vocabulary) for vocabulary in vocabularies]
    result = []
    for a, b in itertools.permutations(range(len(vocabularies)), 2):
        only = union.select(np.flatnonzero(masks[a] & ~masks[b]))
        ids = only.ids_for(vocabularies[a].name)
        first = np.argsort(ids, kind="stable")[:examples].tolist()
        shown = [(int(ids[row]), only.tokens[row].as_py()) for row in first]
        spelled = [(i, token, _spell(vocabularies[b], segmenters[b], token)) for i, token in shown]
        result.append(OneSided(vocabularies[a].name, vocabularies[b].name, len(only), tuple(spelled)))
    return tuple(result)


def _segmenter(vocabulary: Vocabulary) -> Callable[[bytes], list[int] | None] | None:
    try:
        return Segmenter(vocabulary).ids
    except VocabkitError:
        return None


def _spell(
    vocabulary: Vocabulary, segment: Callable[[bytes], list[int] | None] | None, token: bytes
) -> tuple[bytes, ...] | None:
    ids = segment(token) if segment else None
    return None if ids is None else tuple(vocabulary.token(i) or b"" for i in ids)


def _alias_examples(vocabulary: Vocabulary, examples: int) -> tuple[tuple[bytes, tuple[int, ...]], ...]:
    aliases = sorted(vocabulary.aliases().items())[:examples]
    return tuple((vocabulary.token(canonical) or b"", (canonical, *others)) for canonical, others in aliases)


def _roles(vocabularies: Sequence[Vocabulary]) -> tuple[Role, ...]:
    every = sorted({role for vocabulary in vocabularies for role in vocabulary.roles})
    return tuple(Role(role, tuple(_role_token(vocabulary, role) for vocabulary in vocabularies)) for role in every)


def _role_token(vocabulary: Vocabulary, role: str) -> tuple[int, str] | None:
    if role not in vocabulary.roles:
        return None
    token_id = vocabulary.roles[role]
    return token_id, (vocabulary.token(token_id) or b"").decode("utf-8", "replace")


def _unmapped(vocabulary: Vocabulary) -> tuple[str, ...]:
    mapped = set(vocabulary.roles.values())
    special = [i for i in np.flatnonzero(vocabulary.kinds == Kind.SPECIAL).tolist() if i not in mapped]
    return tuple(_texts(vocabulary.tokens.take(pa.array(special, pa.int64()))))


def _texts(tokens: pa.Array) -> list[str]:
    return [token.decode("utf-8", "replace") for token in tokens.to_pylist()]
