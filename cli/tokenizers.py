"""overlap, explain, snapshot, catalog: looking at tokenizers and keeping them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import TOKENIZER, AsJson, Corpus, Field, Tokenizers, arrow_file, check_output, resolve_all, resolve_one
from .page import Html, check_page, write_page
from .show import byte_progress, say, show, show_json

if TYPE_CHECKING:
    from vocabkit.catalog import Resolved
    from vocabkit.vocabulary import Vocabulary


def overlap(
    tokenizers: Tokenizers,
    reachability: Annotated[
        bool, typer.Option("--reachability", help="Also count tokens that encode never produces (takes seconds).")
    ] = False,
    corpus: Corpus = None,
    field: Field = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of one-sided and aliased tokens.")] = 6,
    html: Html = None,
    json: AsJson = False,
) -> None:
    """Report what tokenizers have in common.

    Counts, coverage, scripts, lengths, what only one side has and how the other spells it, aliases, special roles.
    """
    from vocabkit.errors import VocabkitError
    from vocabkit.overlap import overlap as compare

    if field and not corpus:
        raise VocabkitError("--field needs a corpus: add --corpus FILE")
    found = resolve_all(tokenizers)
    check_page(html, [*(each.file for each in found), *(corpus or ())])
    vocabularies = [each.vocabulary for each in found]
    counts = None
    if corpus:
        from vocabkit.ranking import count_tokens

        counts = {}
        for vocabulary in vocabularies:
            with byte_progress(f"counting with {vocabulary.name}") as progress:
                counts[vocabulary.name] = count_tokens(vocabulary, corpus, field=field, progress=progress)
    report = compare(vocabularies, examples=examples, reachability=reachability, counts=counts)
    if json:
        show_json(report)
    else:
        from vocabkit.report.terminal import overlap_report

        show(overlap_report(report))
    if html is not None:
        from vocabkit.report.html.overlap import overlap_page, string_matching
        from vocabkit.report.html.token_table import token_table

        write_page(html, overlap_page(report, token_table(vocabularies), string_matching(vocabularies)))


def explain(
    token: Annotated[
        str,
        typer.Argument(
            help="Text, with escapes such as \\n or \\xe4; or id:279, an id of the first tokenizer.", show_default=False
        ),
    ],
    tokenizers: Tokenizers,
    json: AsJson = False,
) -> None:
    """Say why a token is shared by tokenizers, or why not."""
    from vocabkit.explanation import explain as look_up
    from vocabkit.explanation import parse_token

    vocabularies = [found.vocabulary for found in resolve_all(tokenizers)]
    found = look_up(parse_token(token, vocabularies[0]), vocabularies)
    if json:
        show_json(found)
    else:
        from vocabkit.report.terminal import explanation

        show(explanation(found))


def snapshot(
    source: Annotated[str, typer.Argument(help=f"The tokenizer: {TOKENIZER}.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Output file. [default: NAME.arrow]", show_default=False)] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Special tokens to add to a tiktoken rank file, such as qwen2 or llama3.", show_default=False
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the tokenizer file, to be recorded.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Save a tokenizer's vocabulary as a small Arrow file.

    A snapshot opens at once and offline, and may be given wherever a tokenizer is asked for.
    """
    from vocabkit.catalog import sha256
    from vocabkit.readers import snapshot as snapshots

    found = resolve_one(source)
    vocabulary = found.vocabulary if family is None else _with_family(found, family)
    path = out or arrow_file(vocabulary.name)
    check_output(path, [found.file])
    snapshots.write(path, vocabulary, snapshots.Provenance(found.file.name, sha256(found.file), licence=licence))
    if json:
        show_json(
            {
                "file": path,
                "name": vocabulary.name,
                "size": len(vocabulary),
                "fingerprint": vocabulary.fingerprint,
                "notes": vocabulary.notes,
            }
        )
        return
    say(f"{path}: {vocabulary.name}, {len(vocabulary):,} ids, {vocabulary.fingerprint}")
    for note in vocabulary.notes:
        say(f"note: {note}")


def _with_family(found: Resolved, family: str) -> Vocabulary:
    from vocabkit.errors import VocabkitError
    from vocabkit.readers import tiktoken_bpe

    try:
        return tiktoken_bpe.read(found.file, found.vocabulary.name, family)
    except VocabkitError as error:
        raise VocabkitError(f"--family {family}, for tiktoken rank files: {error}") from error


def catalog(json: AsJson = False) -> None:
    """List the names that need no download."""
    from vocabkit.catalog import catalog as all_entries

    entries = list(all_entries().values())
    if json:
        show_json(entries)
    else:
        from vocabkit.report.terminal import catalog_table

        show(catalog_table(entries))
