"""The overlap report as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vocabkit.audit import RIGHT, TRANSLATIONS, UNJUDGED, WRONG, Audit, audit, spellings
from vocabkit.errors import VocabkitError
from vocabkit.overlap import Overlap, Row
from vocabkit.report.html.page import render
from vocabkit.report.html.token_table import TokenTable, sorts, table_data
from vocabkit.vocabulary import Vocabulary

_FIRST_ROWS = 12
"""Of a breakdown; the others are folded away."""
_RULES = {"spelling": "equal strings", "assistant": "transformers' assisted decoding"}


@dataclass(frozen=True)
class StringMatching:
    """What matching tokens as strings would have come to, from the first tokenizer to each other."""

    audits: tuple[tuple[str, Audit], ...]
    """The rule, a key of `TRANSLATIONS`, and its audit."""
    problems: tuple[str, ...]
    """Tokenizers that don't say how they spell."""


def string_matching(vocabularies: Sequence[Vocabulary]) -> StringMatching:
    """Audit each rule of `TRANSLATIONS` from the first vocabulary to each other."""
    spelled, problems = [], []
    for vocabulary in vocabularies:
        try:
            spelled.append((vocabulary, spellings(vocabulary)))
        except VocabkitError as error:
            problems.append(str(error))
    audits = [
        (rule, audit(translate(spelled[0][1], other), spelled[0][0], vocabulary))
        for vocabulary, other in spelled[1:]
        for rule, translate in TRANSLATIONS.items()
    ]
    return StringMatching(tuple(audits), tuple(problems))


def overlap_page(report: Overlap, table: TokenTable, matching: StringMatching) -> str:
    """One HTML page: matrices, breakdowns, every token, and what matching tokens as strings gets wrong."""
    return render(
        "overlap.html.j2",
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
        longest=_longest,
        sorts=sorts(table),
        left_out=table.left_out,
        matching=matching,
        rules=_RULES,
        reasons={"right": RIGHT, "wrong": WRONG, "not judged": (UNJUDGED,)},
    )


def _matrices(report: Overlap) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """Title, explanation, shares (K, K), and counts (K, K) that stand below them."""
    found: list[tuple[str, str, np.ndarray, np.ndarray | None]] = [
        ("Coverage", "Share and number of the row's tokens that the column has, too.", report.coverage, report.shared),
        ("Jaccard", "Tokens that both have, of the tokens of both together.", report.jaccard, None),
    ]
    if report.mass is not None:
        explained = "Share of the corpus, cut with the row's tokenizer, in tokens that the column has, too."
        found.append(("Corpus mass", explained, report.mass, None))
    return found


def _longest(rows: Sequence[Row]) -> int:
    """The largest number of a breakdown: the length of a full bar."""
    return max((max(row.distinct) for row in rows), default=0) or 1
