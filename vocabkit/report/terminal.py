"""Reports as Rich renderables, made for 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vocabkit.catalog import Entry
from vocabkit.explanation import Explanation
from vocabkit.overlap import Overlap, Row


def show_token(token: bytes) -> str:
    """A token in quotes: spaces visible by the quotes, control characters and broken UTF-8 as escapes."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)[1:]


def overlap_report(overlap: Overlap) -> RenderableType:
    """The whole overlap report."""
    names = [summary.name for summary in overlap.tokenizers]
    total = f"{overlap.shared_by_all:,} tokens shared by all, {overlap.shared_partial_utf8:,} of them partial UTF-8"
    sections = [
        _tokenizers(overlap),
        _pairs(overlap),
        _breakdown("kind", overlap.by_kind, names),
        _breakdown("script", overlap.by_script[:16], names),
        _breakdown("length in bytes", overlap.by_length, names),
        *([_one_sided(overlap)] if len(names) <= 3 else []),
        _aliases(overlap),
        _roles(overlap, names),
    ]
    notes = [Text(f"{s.name}: {note}", style="yellow") for s in overlap.tokenizers for note in s.notes]
    return Group(Text(total, style="bold"), *(part for section in sections for part in (Text(), section)), *notes)


def explanation(found: Explanation) -> RenderableType:
    """Why one token matched or did not."""
    head = Text(f"{show_token(found.token)}  bytes {found.token.hex(' ')}", style="bold")
    table = _table("tokenizer", "id", "what it is")
    for finding in found.findings:
        what = [finding.kind or ""]
        if finding.aliases:
            what.append(f"also id {', '.join(map(str, finding.aliases))}")
        if finding.segmentation is not None:
            what = ["spelled " + " + ".join(f"{show_token(token)} ({i})" for i, token in finding.segmentation)]
        elif finding.id is None:
            what = ["no token, and no way to spell it known"]
        for token_id, kind, role in finding.same_spelling:
            what.append(f"id {token_id} is spelled so, but is {kind}" + (f" (role {role})" if role else ""))
        table.add_row(escape(finding.name), "-" if finding.id is None else str(finding.id), escape("; ".join(what)))
    verdict = Text(found.reason, style="green" if found.shared else "yellow")
    return Group(head, table, verdict, *(Text(f"hint: {hint}") for hint in found.hints))


def catalog_table(entries: Sequence[Entry]) -> RenderableType:
    """The names of the catalog."""
    table = _table("name", "snapshot", "rows", "width", "made from")
    for entry in entries:
        rows, width = (str(value or "") for value in (entry.embedding_rows, entry.width))
        table.add_row(entry.name, entry.snapshot, rows, width, str(entry.provenance))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for at, column in enumerate(columns):
        numeric = column in ("rows", "width", "ids", "distinct", "of its ids", "id") or column.startswith("#")
        table.add_column(column.lstrip("#"), justify="right" if numeric and at else "left", overflow="fold")
    return table


def _tokenizers(overlap: Overlap) -> Table:
    reach = any(summary.unreachable is not None for summary in overlap.tokenizers)
    columns = ["tokenizer", "ids", "distinct", "#special", "#unused", "#aliases", "#partial UTF-8"]
    table = _table(*columns, *(["#unreachable"] if reach else []))
    for s in overlap.tokenizers:
        numbers = [s.size, s.distinct, s.kinds["special"], s.kinds["unused"], s.aliases, s.partial_utf8]
        numbers += [s.unreachable or 0] if reach else []
        table.add_row(escape(s.name), *(f"{number:,}" for number in numbers))
    return table


def _pairs(overlap: Overlap) -> Table:
    mass = any(pair.mass_a is not None for pair in overlap.pairs)
    table = _table("a", "b", "#shared", "#of a", "#of b", "#Jaccard", *(["#mass a", "#mass b"] if mass else []))
    for pair in overlap.pairs:
        shares = [pair.coverage_a, pair.coverage_b, pair.jaccard]
        shares += [pair.mass_a or 0.0, pair.mass_b or 0.0] if mass else []
        table.add_row(escape(pair.a), escape(pair.b), f"{pair.shared:,}", *(f"{share:.1%}" for share in shares))
    return table


def _breakdown(title: str, rows: Sequence[Row], names: Sequence[str]) -> Table:
    table = _table(title, *(f"#{escape(name)}" for name in names), "#shared by all")
    for row in rows:
        table.add_row(row.label, *(f"{count:,}" for count in row.distinct), f"{row.shared:,}")
    return table


def _one_sided(overlap: Overlap) -> Table:
    table = _table("only in", "#tokens", "for example", "how the other spells it")
    for side in overlap.one_sided:
        for at, (_, token, spelled) in enumerate(side.examples):
            other = "?" if spelled is None else " + ".join(show_token(part) for part in spelled)
            first = (f"{side.has}, not {side.lacks}", f"{side.count:,}") if at == 0 else ("", "")
            table.add_row(escape(first[0]), first[1], escape(show_token(token)), escape(other))
    return table


def _aliases(overlap: Overlap) -> RenderableType:
    table = _table("aliases in", "token", "ids")
    for name, examples in overlap.aliases.items():
        for at, (token, ids) in enumerate(examples[:3]):
            table.add_row(escape(name) if at == 0 else "", escape(show_token(token)), ", ".join(map(str, ids)))
    return table if table.row_count else Text("no tokenizer has two ids for the same bytes")


def _roles(overlap: Overlap, names: Sequence[str]) -> RenderableType:
    table = _table("role", *(escape(name) for name in names))
    for role in overlap.roles:
        cells = [escape(f"{token[1]} ({token[0]})") if token else "-" for token in role.tokens]
        table.add_row(role.role, *cells)
    unmapped = [f"{name}: {len(tokens)}" for name, tokens in overlap.unmapped_special.items() if tokens]
    note = f"special tokens without a role, never aligned: {', '.join(unmapped)}" if unmapped else ""
    return Group(table, Text(note, style="dim"))
