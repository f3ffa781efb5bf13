"""The overlap page: matrices, breakdowns, a searchable table of every token, and errors of string matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.report.html.page import Origin, render
from vocabkit.report.layout import spelled
from vocabkit.shared.align import align
from vocabkit.shared.audit import RIGHT, TRANSLATIONS, UNJUDGED, WRONG, Audit, audit, spellings
from vocabkit.shared.overlap import Overlap
from vocabkit.tokenizer.segmenter import spell
from vocabkit.tokenizer.vocabulary import Vocabulary

_FIRST_ROWS = 12
"""Rows of a breakdown that are shown; the others are folded away."""
_SPELLED = 1000
"""Tokens that a tokenizer lacks for which the table says how it spells them: 100,000 would take half a minute."""
_RULES = {"spelling": "equal strings", "assistant": "transformers' assisted decoding"}
"""Keys of `TRANSLATIONS` on the page: the other rules find nearly the same."""


def overlap_page(report: Overlap, table: TokenTable, matching: StringMatching | None, origin: Origin) -> str:
    """Render the page; without `matching`, that section is left out."""
    return render(
        "overlap.html.j2",
        origin,
        scripts=("data.js", "tokens.js"),
        data=table_data(table),
        report=report,
        names=[summary.name for summary in report.tokenizers],
        matrices=_matrices(report),
        breakdowns=[
            ("script", report.by_script),
            ("length in bytes", report.by_length),
            ("kind", report.by_kind),
        ],
        first_rows=_FIRST_ROWS,
        nothing=(0,) * len(report.tokenizers),
        filters=filters(table),
        spelled=[len(rows) for rows in table.pieces],
        most_spelled=_SPELLED,
        matching=matching,
        rules=_RULES,
        reasons={"right": RIGHT, "wrong": WRONG, "not judged": (UNJUDGED,)},
    )


def _matrices(report: Overlap) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """Title, explanation, shares (K, K), and counts (K, K) to show below them."""
    found: list[tuple[str, str, np.ndarray, np.ndarray | None]] = [
        ("Coverage", "Share and number of the row's tokens that the column also has.", report.coverage, report.shared),
    ]
    if len(report.tokenizers) > 2:  # for two, it is in the first sentence of the page
        explained = "Tokens that both have, as a share of the tokens that either has."
        found.append(("Jaccard", explained, report.jaccard, None))
    if report.mass is not None:
        explained = "Share of the corpus, cut with the row's tokenizer, in tokens that the column also has."
        found.append(("Corpus mass", explained, report.mass, None))
    return found


# ---- the table of every token ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Tokens of K tokenizers, in the order of `align`."""

    names: tuple[str, ...]
    tokens: tuple[bytes, ...]
    """T, distinct."""
    ids: np.ndarray
    """(K, T) int32: the canonical id in each tokenizer, -1 where it lacks the token."""
    aliases: tuple[dict[int, list[int]], ...]
    """K: row -> further ids of the same bytes."""
    pieces: tuple[dict[int, list[bytes]], ...]
    """K: row that the tokenizer alone lacks -> how it spells the token, for the first `_SPELLED` of these rows."""


def token_table(vocabularies: Sequence[Vocabulary]) -> TokenTable:
    """All tokens of any of `vocabularies`. Raises as `align` does."""
    union = align(vocabularies, at_least=1)
    ids = np.stack([union.ids_with_gaps(name) for name in union.names])  # (K, T)
    aliases = tuple(map(_aliases, vocabularies, ids))
    tokens = union.tokens.to_pylist()
    owners = (ids >= 0).sum(axis=0)
    pieces = []
    for vocabulary, own in zip(vocabularies, ids, strict=True):
        rows = np.flatnonzero((own < 0) & (owners == len(ids) - 1))[:_SPELLED].tolist()
        found = spell(vocabulary, [tokens[row] for row in rows]) if rows else []
        pieces.append({row: [piece.token for piece in cut] for row, cut in zip(rows, found, strict=True) if cut})
    return TokenTable(tuple(union.names), tuple(tokens), ids, aliases, tuple(pieces))


def _aliases(vocabulary: Vocabulary, own: np.ndarray) -> dict[int, list[int]]:
    others = vocabulary.aliases()
    return {row: others[int(own[row])] for row in np.flatnonzero(np.isin(own, list(others))).tolist()}


def table_data(table: TokenTable) -> dict[str, Any]:
    """The data for tokens.js. Ids are differences from the last id above, 0 for none: within a family of tokenizers
    nearly all of them are 1, which compresses well.
    """
    columns = []
    for own in table.ids.astype(np.int64):
        steps, there = np.zeros(len(own), np.int64), own >= 0
        steps[there] = np.diff(own[there], prepend=-1)
        columns.append(steps.tolist())
    return {
        "names": table.names,
        "tokens": [spelled(token) for token in table.tokens],
        "ids": columns,
        "aliases": table.aliases,
        "pieces": [{row: [spelled(piece) for piece in cut] for row, cut in rows.items()} for rows in table.pieces],
    }


def filters(table: TokenTable) -> list[tuple[str, str, int]]:
    """Filters of the table: key for tokens.js, label, and number of tokens."""
    has = table.ids >= 0
    owners = has.sum(axis=0)
    every = len(table.names)
    aliased = {row for rows in table.aliases for row in rows}
    found = [("all", "all tokens", len(table.tokens)), ("shared", "shared by all", int((owners == every).sum()))]
    found += [
        (f"only:{at}", f"only in {name}", int((has[at] & (owners == 1)).sum())) for at, name in enumerate(table.names)
    ]
    if every > 2:
        found += [
            (f"lacks:{at}", f"only {name} lacks", int((~has[at] & (owners == every - 1)).sum()))
            for at, name in enumerate(table.names)
        ]
    return [*found, ("aliased", "several ids", len(aliased))]


# ---- matching tokens as strings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StringMatching:
    """What matching tokens as strings gets wrong, from the first tokenizer to each of the others."""

    audits: tuple[tuple[str, Audit], ...]
    """The rule, one of `_RULES`, and its audit."""
    problems: tuple[str, ...]
    """One line for each tokenizer whose spellings are unknown."""


def string_matching(vocabularies: Sequence[Vocabulary]) -> StringMatching:
    """Audit each rule of `_RULES` from the first vocabulary to each of the others."""
    spelled, problems = [], []
    for vocabulary in vocabularies:
        try:
            spelled.append((vocabulary, spellings(vocabulary)))
        except VocabkitError as error:
            problems.append(str(error))
    audits = [
        (rule, audit(TRANSLATIONS[rule](spelled[0][1], other), spelled[0][0], vocabulary))
        for vocabulary, other in spelled[1:]
        for rule in _RULES
    ]
    return StringMatching(tuple(audits), tuple(problems))
