"""show, diff and map: look into a shared vocabulary, and put two tokenizers side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import TOKENIZER, AsJson, Overwrite, check_output, resolve_one
from .show import note, say, shared_as_json, show_json, working

if TYPE_CHECKING:
    from vocabkit.shared.shared_vocabulary import Row

Examples = Annotated[int, typer.Option(min=0, help="Ids to list for each kind of difference.")]


def show(
    file: Annotated[Path, typer.Argument(help="A shared vocabulary.", show_default=False)],
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Rows whose token contains this text.", show_default=False)
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="The row of this token, written as for `vocabkit explain`.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="FIRST:END", help="Rows from FIRST up to, not including, END.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    csv: Annotated[bool, typer.Option("--csv", help="Print all of these rows as CSV.")] = False,
    json: AsJson = False,
) -> None:
    """Show what a shared vocabulary holds.

    Prints its tokenizers, how its rows were chosen, and some of its rows. Exit code 1 if no row has the token of
    --token. Example: vocabkit show qwen2-llama3.arrow --search house
    """
    from vocabkit.errors import VocabkitError, counted, quote
    from vocabkit.report.layout import show_token
    from vocabkit.shared.explain import unescape
    from vocabkit.shared.shared_vocabulary import find_rows, open_shared, read_rows
    from vocabkit.tokenizer.catalog import catalog

    if not file.exists() and str(file).lower() in catalog():
        raise VocabkitError(
            f"{file}: is one tokenizer; `vocabkit build-shared` makes a shared vocabulary of two or more"
        )
    shared = open_shared(file)
    asked = None if token is None else unescape(token)
    found = find_rows(shared, token=asked, search=None if search is None else search.encode(), rows=_range(rows))
    listed = read_rows(shared, found if csv or json else found[:limit])
    code = 1 if asked is not None and len(found) == 0 else 0
    if json:
        show_json({**shared_as_json(file, shared), "found": len(found), "listed": listed})
        raise typer.Exit(code)
    if csv:
        _print_csv(listed, shared.names)
        raise typer.Exit(code)
    chosen = shared.selection
    say(f"{file}: {len(shared):,} rows, {shared.fingerprint}")
    for info in shared.tokenizers:
        say(f"  {info.name}: {shared.mask_for(info.name).sum():,} rows, of {info.size:,} ids, from {info.source}")
    what = "words" if shared.of_words else "tokens"
    say(f"  {what} of at least {chosen.at_least} tokenizers, in order of {chosen.order}")
    if chosen.unreachable:
        say(f"  {counted(chosen.unreachable, 'token')} left out that encode never produces")
    if shared.roles:
        say(f"  roles: {', '.join(shared.roles)}")
    if search is not None or token is not None or rows is not None:
        say(f"{counted(len(found), 'row')} found")
    for row in listed:
        ids = "  ".join(f"{name} {_ids(found) or '-'}" for name, found in row.ids.items())
        what = f"role {row.role}" if row.role else show_token(row.token)
        count = "" if row.count is None else f"  count {row.count:,}"
        say(f"{row.row:>8}  {what}  {ids}{count}")
    if code:
        note(f"no row has this token; `vocabkit explain {quote(token or '')} TOKENIZER ...` says which tokenizers do")
    raise typer.Exit(code)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=f"A tokenizer: {TOKENIZER}.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="B", help="Another version of it.", show_default=False)],
    examples: Examples = 10,
    json: AsJson = False,
) -> None:
    """Compare two versions of a tokenizer id by id.

    For example, a base model's and a fine-tune's. Exit code 1 if they differ. Example: vocabkit diff qwen2 qwen2.5
    """
    from vocabkit.errors import counted
    from vocabkit.report.layout import show_token
    from vocabkit.shared.diff import diff as compare

    found = compare(resolve_one(before).vocabulary, resolve_one(after).vocabulary)
    if json:
        show_json({**vars(found), "equal": found.is_equal})
        raise typer.Exit(0 if found.is_equal else 1)
    say(f"{found.before}: {counted(found.size_before, 'id')}; {found.after}: {counted(found.size_after, 'id')}")
    if found.is_equal:
        say("no difference")
    elif found.equal_below:
        say(f"all ids below {found.equal_below:,} are equal")
    for name in ("added", "removed", "renamed", "reflagged"):
        changed = getattr(found, name)
        if changed:
            say(f"{name}: {counted(len(changed), 'id')}")
        for each in changed[:examples]:
            tokens = ((each.before, each.kind_before), (each.after, each.kind_after))
            shown = [f"{show_token(token)} ({kind})" for token, kind in tokens if token is not None]
            say(f"  {each.id:>8}  {' -> '.join(shown)}")
        if examples < len(changed):
            say(f"  and {len(changed) - examples:,} more; --examples shows more of them")
    for role, ids in found.roles.items():
        was_id, now_id = ("none" if each is None else each for each in ids)
        say(f"role {role}: {was_id} -> {now_id}")
    raise typer.Exit(0 if found.is_equal else 1)


def map_ids(
    source: Annotated[str, typer.Argument(help=f"The tokenizer whose ids are mapped: {TOKENIZER}.")],
    target: Annotated[str, typer.Argument(help="The tokenizer that they are mapped to.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write: .json, .csv, .parquet, or .npy (one id for each, or -1).")],
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Map every id of one tokenizer to its equivalent in another.

    The equivalent is the token of the same bytes, or the special token of the same role; failing that, the target's own
    tokens for these bytes; or nothing. For speculative decoding, distillation and embedding transplants across
    vocabularies.
    """
    from vocabkit.shared.token_map import check_format, token_map

    check_format(out)
    resolved = resolve_one(source), resolve_one(target)
    check_output(out, [each.file for each in resolved], overwrite)
    with working("mapping"):
        found = token_map(resolved[0].vocabulary, resolved[1].vocabulary)
    found.save(out)
    if found.note:
        note(found.note)
    if json:
        show_json({"file": out, "source": found.source, "target": found.target, "ids": len(found), **found.counts()})
        return
    say(f"{out}: {len(found):,} ids of {found.source} in {found.target}")
    for match, count in found.counts().items():
        say(f"  {match:6} {count:>9,}  {count / len(found):6.1%}  {_MATCHES[match]}")


_MATCHES = {
    "token": "a token of the same bytes",
    "role": "the special token of the same role",
    "pieces": "several tokens, of the same bytes together",
    "none": "nothing",
}


def _range(rows: str | None) -> tuple[int, int] | None:
    from vocabkit.errors import VocabkitError, quote

    if rows is None:
        return None
    first, colon, end = rows.partition(":")
    if not (first.isdecimal() and (end.isdecimal() or not colon)):
        raise VocabkitError(f"`rows` {quote(rows)} is not of the form FIRST:END, as in 100:120")
    return int(first), int(end) if colon else int(first) + 1


def _print_csv(rows: list[Row], names: list[str]) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["row", "token", "role", "count", *names])
    for row in rows:
        text = row.token.decode("utf-8", "backslashreplace")
        ids = map(_ids, row.ids.values())
        writer.writerow([row.row, text, row.role or "", "" if row.count is None else row.count, *ids])


def _ids(found: int | list[int] | None) -> str:
    """The ids of a row in one tokenizer; empty where it lacks the row."""
    return "" if found is None else str(found) if isinstance(found, int) else " ".join(map(str, found))
