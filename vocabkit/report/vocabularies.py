"""Terminal reports on vocabularies: overlap, explanation, audit, catalog. Made for 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from vocabkit.report.layout import Columns, Listing, Section, printable, show_token
from vocabkit.shared.audit import RIGHT, UNJUDGED, WRONG, Audit, Case
from vocabkit.shared.explain import Explanation, Finding, in_brackets
from vocabkit.shared.overlap import Overlap, Row, Spelled, Summary
from vocabkit.tokenizer.catalog import Entry
from vocabkit.tokenizer.segmenter import Piece

_SCRIPTS = 15
"""Scripts with a row of their own; the others are summed up."""
_TELLING = 5
"""Of them in a summary."""
_NAME_WIDTH = 24
_EXAMPLE_WIDTH = 26
_MAX_PIECES = 8
"""Pieces shown per token in a list of examples."""
_MAX_SPECIAL = 8
"""Special tokens without a role shown per tokenizer."""
_NONE = "-"


def overlap_summary(overlap: Overlap) -> RenderableType:
    """The overlap of several tokenizers on one screen."""
    names = [printable(summary.name, _NAME_WIDTH) for summary in overlap.tokenizers]
    pairs = list(zip(names, overlap.tokenizers, strict=True))
    such = [
        (f"{name} lacks {summary.lacks.count:,}", _separated([_token(e.token) for e in summary.lacks.examples[:4]]))
        for name, summary in pairs
    ]
    others = "that the other has" if len(names) == 2 else "that all the others have"
    return _spaced(
        _headline(overlap, names),
        _numbers(overlap, names, short=True),
        _titled(f"tokens {others}, such as", such),
        _titled("notes", [(name, printable(note).split(" ")) for name, s in pairs for note in s.notes]),
    )


def overlap_report(overlap: Overlap) -> RenderableType:
    """Everything about the overlap of several tokenizers."""
    names = [printable(summary.name, _NAME_WIDTH) for summary in overlap.tokenizers]
    named = list(zip(names, overlap.tokenizers, strict=True))
    return _spaced(
        _headline(overlap, names),
        _numbers(overlap, names),
        *(_lacking(name, summary, names) for name, summary in named),
        *(_unreachable(name, summary) for name, summary in named if summary.unreachable),
        _titled("aliases: ids of the same bytes, the canonical one first", _aliases(named)),
        _roles(overlap, names),
        _titled("special tokens without a role, never aligned", _without_role(named)),
        _titled("notes", [(name, printable(note).split(" ")) for name, s in named for note in s.notes]),
    )


def _headline(overlap: Overlap, names: Sequence[str]) -> Text:
    owners = " and ".join(names) if len(names) == 2 else f"all {len(names)} tokenizers"
    share = _share(overlap.shared_by_all / overlap.union)
    return Text(f"{overlap.shared_by_all:,} tokens shared by {owners}, {share} of all that they have", style="bold")


def explanation(found: Explanation) -> RenderableType:
    """Why a token is shared or not."""
    ids = [_NONE if finding.id is None else str(finding.id) for finding in found.findings]
    names = [printable(finding.name, _NAME_WIDTH) for finding in found.findings]
    labels = [
        f"{name:<{max(map(len, names))}}  {token_id:>{max(map(len, ids))}}"
        for name, token_id in zip(names, ids, strict=True)
    ]
    return Group(
        Text(show_token(found.token, 400), style="bold"),
        Listing([("bytes", found.token.hex(" ").split())]),
        Listing([(label, _what(finding)) for label, finding in zip(labels, found.findings, strict=True)]),
        Text(printable(found.reason), style="green" if found.shared else "yellow"),
        *(Text(f"{h.how}: {show_token(h.token)}, found in {printable(', '.join(h.found_in))}") for h in found.hints),
    )


def audit_report(found: Audit) -> RenderableType:
    """What another tool's token map gets right, gets wrong and misses."""

    def reasons(names: Sequence[str]) -> list[tuple[str, list[str]]]:
        return [(f"  {name}", [f"{found.by_reason[name]:,}", "", ""]) for name in names if found.by_reason[name]]

    def row(label: str, count: int, total: int, of: str) -> tuple[str, list[str]]:
        return label, [f"{count:,}", _share(count / max(total, 1)), of]

    rows = [
        row("right", found.right, found.pairs, "of the pairs"),
        *reasons(RIGHT),
        row("wrong", found.wrong, found.pairs, "of the pairs"),
        *reasons(WRONG),
        row(f"not judged, {UNJUDGED}", found.unjudged, found.pairs, "of the pairs"),
        row("missed", found.missed, found.expected, f"of {found.expected:,} tokens of the same bytes"),
    ]
    source, target = printable(found.source, _NAME_WIDTH), printable(found.target, _NAME_WIDTH)
    return _spaced(
        Text(f"{found.pairs:,} pairs of {source} and {target}", style="bold"),
        Columns(("ids", "", ""), [Section("verdict", rows)]),
        _titled(f"wrong: {source}, then {target}", [_case(case) for case in found.wrong_examples]),
        _titled(f"missed: {source}, then {target}", [_case(case) for case in found.missed_examples]),
    )


def catalog_table(entries: Sequence[Entry]) -> RenderableType:
    """Catalog entries, models below the vocabulary that they use."""
    rows, names = [], {entry.name for entry in entries}
    for entry in sorted(entries, key=lambda entry: _order(entry, entries)):
        numbers = [f"{number:,}" if number else "" for number in (entry.embedding_rows, entry.width)]
        indent = "  " if entry.name != entry.snapshot and entry.snapshot in names else ""
        rows.append((indent + entry.name, [*numbers, entry.hub or _NONE]))
    return Columns(("embedding rows", "width", "on the hub"), [Section("name", rows)])


def _order(entry: Entry, entries: Sequence[Entry]) -> tuple[int, bool]:
    """Vocabularies as in the catalog, each followed by its models."""
    first = next(at for at, each in enumerate(entries) if each.snapshot == entry.snapshot)
    return first, entry.name != entry.snapshot


# ---- numbers of an overlap ---------------------------------------------------------------------------------------


def _numbers(overlap: Overlap, names: Sequence[str], *, short: bool = False) -> Columns:
    """One column per tokenizer, one for what all share and, with two tokenizers, its share of each.

    Args:
        short: leave out all but the most telling sections and scripts.
    """
    pair = len(names) == 2
    headings = [*names, "shared", *(f"of {name}" for name in names)] if pair else [*names, "shared by all"]

    def row(label: str, cells: Sequence[str]) -> tuple[str, list[str]]:
        return label, [*cells, *[""] * (len(headings) - len(cells))]

    def numbers(label: str, counts: Sequence[int | None]) -> tuple[str, list[str]]:
        return row(label, [_NONE if count is None else f"{count:,}" for count in counts])

    def breakdown(label: str, distinct: Sequence[int], shared: int) -> tuple[str, list[str]]:
        shares = [_share(shared / count) if count else _NONE for count in distinct] if pair else []
        return row(label, [f"{count:,}" for count in [*distinct, shared]] + shares)

    def rows(classes: Iterable[Row]) -> list[tuple[str, list[str]]]:
        return [breakdown(r.label, r.distinct, r.shared_by_all) for r in classes if any(r.distinct)]

    def matrix(title: str, note: str, values: np.ndarray, of_all: Sequence[float] = ()) -> Section:
        cells = [[f"{v:,}" if isinstance(v, int) else _share(v) for v in line] for line in values.tolist()]
        for at, line in enumerate(cells):
            line[at] = "·"
            line.extend(map(_share, of_all[at : at + 1]))
        return Section(title, list(map(row, names, cells)), note)

    t = overlap.tokenizers
    mass = [s.mass_shared_by_all or 0.0 for s in t]
    summary = [
        numbers("ids", [s.size for s in t]),
        numbers("special", [s.kinds["special"] for s in t]),
        numbers("unused", [s.kinds["unused"] for s in t]),
        numbers("aliases", [s.aliases for s in t]),
        breakdown("distinct tokens", [s.distinct for s in t], overlap.shared_by_all),
    ]
    if not pair:
        summary.append(numbers("in no other", [s.in_no_other for s in t]))
    if any(s.embedding_rows for s in t):
        summary += [numbers("embedding rows", [s.embedding_rows for s in t]), numbers("width", [s.width for s in t])]
    if overlap.mass is not None:
        summary.append(row("corpus in shared", list(map(_share, mass))))
    matrices = [
        matrix("shared", "tokens that both have", overlap.shared),
        matrix(
            "coverage",
            "share of the row's tokens that the column also has",
            overlap.coverage,
            [overlap.shared_by_all / max(s.distinct, 1) for s in t],
        ),
        matrix("Jaccard", "tokens that both have / tokens of both together", overlap.jaccard),
    ]
    if overlap.mass is not None:
        note = "share of the corpus, cut with the row's tokenizer, in tokens that the column also has"
        matrices.append(matrix("mass", note, overlap.mass, mass))
    if short:
        telling = Section("script", rows(_with_rest(overlap.by_script, _TELLING))) if pair else matrices[1]
        return Columns(headings, [Section("tokenizer", summary), telling])
    return Columns(
        headings,
        [
            Section("tokenizer", summary),
            *([] if pair else matrices),
            Section("kind", rows(overlap.by_kind)),
            Section("script", rows(_with_rest(overlap.by_script))),
            Section("length in bytes", rows(overlap.by_length)),
        ],
    )


def _with_rest(scripts: Sequence[Row], most: int = _SCRIPTS) -> list[Row]:
    """The largest scripts, and all others as one row."""
    rest = scripts[most:]
    if len(rest) < 2:
        return list(scripts)
    distinct = tuple(map(sum, zip(*(row.distinct for row in rest), strict=True)))
    return [*scripts[:most], Row(f"{len(rest)} others", distinct, sum(row.shared_by_all for row in rest))]


# ---- examples of an overlap --------------------------------------------------------------------------------------


def _lacking(name: str, summary: Summary, names: Sequence[str]) -> RenderableType:
    owners = next(f"{other} has" for other in names if other != name) if len(names) == 2 else "all the others have"
    spells = "; it spells them" if summary.lacks.examples else ""
    title = Text(f"{name} lacks {summary.lacks.count:,} tokens that {owners}{spells}", style="bold")
    return Group(title, Listing(_examples(summary.lacks.examples)))


def _unreachable(name: str, summary: Summary) -> RenderableType:
    assert summary.unreachable is not None
    count, shared = summary.unreachable.count, summary.unreachable.shared_by_all
    if not count:
        return Text(f"{name} produces all of its text tokens", style="bold")
    instead = "; instead it gives" if summary.unreachable.examples else ""
    title = f"{name} never produces {count:,} of its text tokens ({shared:,} of them shared){instead}"
    return Group(Text(title, style="bold"), Listing(_examples(summary.unreachable.examples)))


def _aliases(named: Sequence[tuple[str, Summary]]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, summary in named:
        shown = [f"{show_token(a.token, _EXAMPLE_WIDTH)} {' = '.join(map(str, a.ids))}" for a in summary.alias_examples]
        more = summary.aliases - sum(len(alias.ids) - 1 for alias in summary.alias_examples)
        if summary.aliases:
            rows.append((name, _separated([*shown, *([f"and {more:,} more"] if more else [])])))
    return rows


def _roles(overlap: Overlap, names: Sequence[str]) -> RenderableType | None:
    """Special tokens by role; with two tokenizers there is room for their ids."""

    def cell(spelling: str, token_id: int) -> str:
        return printable(spelling, _EXAMPLE_WIDTH) + (f" {token_id}" if len(names) == 2 else "")

    rows = [(r.role, [cell(t.spelling, t.id) if t else _NONE for t in r.tokens]) for r in overlap.roles]
    return Columns(names, [Section("role", rows)]) if rows else None


def _without_role(named: Sequence[tuple[str, Summary]]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, summary in named:
        shown = [printable(spelling, _EXAMPLE_WIDTH) for spelling in summary.special_without_role[:_MAX_SPECIAL]]
        more = len(summary.special_without_role) - len(shown)
        if shown:
            rows.append((name, [*shown, *([f"and {more:,} more"] if more else [])]))
    return rows


def _examples(examples: Sequence[Spelled]) -> list[tuple[str, list[str]]]:
    return [(show_token(example.token, _EXAMPLE_WIDTH), _pieces(example.pieces)) for example in examples]


def _pieces(pieces: Sequence[Piece] | None) -> list[str]:
    if pieces is None:
        return ["not at all"]
    shown = [show_token(piece.token, _EXAMPLE_WIDTH) for piece in pieces[:_MAX_PIECES]]
    return shown + ([f"… {len(pieces)} tokens"] if len(pieces) > _MAX_PIECES else [])


# ---- one token ---------------------------------------------------------------------------------------------------


def _what(finding: Finding) -> list[str]:
    """How one tokenizer has or spells a token, in words."""
    if finding.id is not None:
        words = [finding.kind or ""]
        if finding.aliases:
            words += ["and", "id", *map(str, finding.aliases)]
    elif finding.pieces:
        words = [
            f"{len(finding.pieces)} tokens:",
            *_separated([f"{show_token(p.token)} {p.id}" for p in finding.pieces]),
        ]
    else:
        words = ["no token, and can't spell it"]
    for other in finding.lookalikes:
        words[-1] += ";"
        words += f"id {other.id} has this spelling, but is {other.kind}{in_brackets(other)}".split(" ")
    return words


def _case(case: Case) -> tuple[str, list[str]]:
    words = []
    if case.target_id is not None:
        words = [f"{_token(case.target_token)} {case.target_id}", f"({case.reason}),"]
    right = "no token of these bytes" if case.expected_id is None else f"right: {case.expected_id}"
    return f"{_token(case.source_token)} {case.source_id}", [*words, right]


def _token(token: bytes | None) -> str:
    return _NONE if token is None else show_token(token, _EXAMPLE_WIDTH)


def _separated(words: Sequence[str]) -> list[str]:
    return [f"{word}," for word in words[:-1]] + list(words[-1:])


def _share(value: float) -> str:
    return f"{value:.1%}"


def _titled(title: str, rows: Sequence[tuple[str, Sequence[str]]]) -> RenderableType | None:
    return Group(Text(title, style="bold"), Listing(rows)) if rows else None


def _spaced(*parts: RenderableType | None) -> Group:
    """The parts that are not None, with empty lines between them."""
    shown = [part for part in parts if part is not None]
    return Group(*[item for part in shown for item in (part, Text())][:-1])
