"""vocabkit's commands: parse, call one library function, show. Data on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vocabkit.vocabulary import Vocabulary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Reuse a vision-language adapter trained with one LLM with another one, through their shared vocabulary.",
)

TOKENIZER = "a folder, a tokenizer file, a GGUF, a catalog name (see `vocabkit catalog`), a hub id, or NAME=any of these"
Tokenizers = Annotated[list[str], typer.Argument(help=f"Two or more; each {TOKENIZER}.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def main() -> None:
    """Run the command line. Exit code 2 on bad input, with one line on stderr."""
    from vocabkit.errors import VocabkitError

    try:
        app()
    except VocabkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command("build-shared")
def build_shared(
    tokenizers: Tokenizers,
    out: Annotated[Path | None, typer.Option(help="Output file. [default: the names joined, .arrow]", show_default=False)] = None,
    at_least: Annotated[int | None, typer.Option(help="Keep tokens that this many tokenizers have. [default: all of them]", show_default=False)] = None,
    union: Annotated[bool, typer.Option("--union", help="Keep every token: the same as --at-least 1.")] = False,
    special_roles: Annotated[bool, typer.Option("--special-roles", help="Also match special tokens, by role (bos, turn_end, ...).")] = False,
    rank_by: Annotated[list[Path] | None, typer.Option(help="Caption corpus to rank by: text, JSONL, LLaVA JSON, Parquet, a folder; may be repeated.", show_default=False)] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Keep only the N most frequent rows of the corpus.", show_default=False)] = None,
    count_with: Annotated[str | None, typer.Option(help="Name of the tokenizer that counts. [default: the first]", show_default=False)] = None,
    field: Annotated[str | None, typer.Option(help="Field or column of the corpus that holds the text.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Build the shared vocabulary of two or more tokenizers as an Arrow file."""
    from vocabkit.alignment import align
    from vocabkit.errors import VocabkitError

    if union and at_least is not None:
        raise VocabkitError("--union and --at-least say the same thing; give one of them")
    if not rank_by and (top or count_with or field):
        raise VocabkitError("--top, --count-with and --field need a corpus: add --rank-by FILE")
    vocabularies = _resolve_all(tokenizers)
    shared = align(vocabularies, at_least=1 if union else at_least, special_roles=special_roles)
    if rank_by:
        from vocabkit.ranking import rank

        named = {vocabulary.name: vocabulary for vocabulary in vocabularies}
        if count_with is not None and count_with not in named:
            raise VocabkitError(f"--count-with {count_with} is none of {', '.join(named)}")
        counter = named[count_with] if count_with else vocabularies[0]
        with _progress("counting tokens") as progress:
            shared = rank(shared, counter, rank_by, top=top, field=field, progress=progress)
    path = out or Path("-".join(shared.names) + ".arrow")
    shared.save(path)
    if json:
        _print_json({"file": str(path), "rows": len(shared), "fingerprint": shared.fingerprint, "tokenizers": shared.tokenizers, "selection": shared.selection, "roles": shared.roles})
    else:
        print(f"{path}: {len(shared):,} shared tokens, {shared.fingerprint}")
        for info in shared.tokenizers:
            print(f"  {info.name}: {shared.mask_for(info.name).sum() / info.size:.1%} of {info.size:,} ids")
        if shared.selection.mass_kept is not None:
            print(f"  {shared.selection.mass_kept:.2%} of {shared.selection.corpus_tokens:,} corpus tokens kept")


@app.command()
def overlap(
    tokenizers: Tokenizers,
    reachability: Annotated[bool, typer.Option("--reachability", help="Also count tokens that encode never produces (takes seconds).")] = False,
    corpus: Annotated[list[Path] | None, typer.Option(help="Corpus for coverage by mass; may be repeated.", show_default=False)] = None,
    field: Annotated[str | None, typer.Option(help="Field or column of the corpus that holds the text.", show_default=False)] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of one-sided and aliased tokens.")] = 6,
    json: AsJson = False,
) -> None:
    """Report what tokenizers have in common: counts, coverage, scripts, one-sided tokens, aliases, roles."""
    from vocabkit.overlap import overlap as compare

    vocabularies = _resolve_all(tokenizers)
    counts = None
    if corpus:
        from vocabkit.ranking import count_tokens

        counts = {}
        for vocabulary in vocabularies:
            with _progress(f"counting with {vocabulary.name}") as progress:
                counts[vocabulary.name] = count_tokens(vocabulary, corpus, field=field, progress=progress)
    report = compare(vocabularies, examples=examples, reachability=reachability, counts=counts)
    if json:
        _print_json(report)
    else:
        from vocabkit.report.terminal import overlap_report

        _print(overlap_report(report))


@app.command()
def explain(
    token: Annotated[str, typer.Argument(help="Text, with escapes such as \\n or \\xe4; or id:279, an id of the first tokenizer.", show_default=False)],
    tokenizers: Tokenizers,
    json: AsJson = False,
) -> None:
    """Say why a token is shared by tokenizers, or why not."""
    from vocabkit.explanation import explain as look_up
    from vocabkit.explanation import parse_token

    vocabularies = _resolve_all(tokenizers)
    found = look_up(parse_token(token, vocabularies[0]), vocabularies)
    if json:
        _print_json(found)
    else:
        from vocabkit.report.terminal import explanation

        _print(explanation(found))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A shared vocabulary.", show_default=False)],
    tokenizer: Annotated[list[str] | None, typer.Option(help=f"NAME=SOURCE for a tokenizer that is not in the catalog; SOURCE is {TOKENIZER}. May be repeated.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Verify a shared vocabulary row by row against its tokenizers. Exit code 1 if it is wrong."""
    from vocabkit.catalog import resolve
    from vocabkit.errors import VocabkitError
    from vocabkit.shared import open_shared, verify

    shared = open_shared(file)
    given = dict(argument.partition("=")[::2] for argument in tokenizer or ())
    vocabularies = {}
    for name in shared.names:
        try:
            vocabularies[name] = resolve(given.get(name, name)).vocabulary
        except VocabkitError as error:
            raise VocabkitError(f"{file}: needs the tokenizer {name}: give it with --tokenizer {name}=SOURCE ({error})") from error
    problems = verify(shared, vocabularies)
    if json:
        _print_json({"file": str(file), "rows": len(shared), "fingerprint": shared.fingerprint, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        verdict = f"{len(problems)} problems" if problems else f"all {len(shared):,} rows are right in {', '.join(shared.names)}"
        print(f"{file}: {verdict}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def snapshot(
    source: Annotated[str, typer.Argument(help=f"The tokenizer: {TOKENIZER}.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Output file. [default: NAME.arrow]", show_default=False)] = None,
    family: Annotated[str | None, typer.Option(help="Special tokens to add to a tiktoken rank file, such as qwen2 or llama3.", show_default=False)] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the tokenizer file, to be recorded.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Save a tokenizer's vocabulary as a small Arrow file that opens at once, offline."""
    from vocabkit.catalog import resolve, sha256
    from vocabkit.readers import snapshot as snapshots
    from vocabkit.readers import tiktoken_bpe

    found = resolve(source)
    vocabulary = found.vocabulary
    if family is not None:
        vocabulary = tiktoken_bpe.read(found.file, vocabulary.name, family)
    path = out or Path(f"{vocabulary.name}.arrow")
    snapshots.write(path, vocabulary, snapshots.Provenance(found.file.name, sha256(found.file), licence=licence))
    if json:
        _print_json({"file": str(path), "name": vocabulary.name, "size": len(vocabulary), "fingerprint": vocabulary.fingerprint, "notes": vocabulary.notes})
    else:
        print(f"{path}: {vocabulary.name}, {len(vocabulary):,} ids from {found.how}")
        for note in vocabulary.notes:
            print(f"note: {note}")


@app.command("catalog")
def catalog_command(json: AsJson = False) -> None:
    """List the names that vocabkit knows without any download."""
    from vocabkit.catalog import catalog

    entries = list(catalog().values())
    if json:
        _print_json(entries)
    else:
        from vocabkit.report.terminal import catalog_table

        _print(catalog_table(entries))


def _resolve_all(arguments: Sequence[str]) -> list[Vocabulary]:
    """Resolve tokenizers, and tell on stderr what was used."""
    from vocabkit.catalog import resolve

    vocabularies = []
    for argument in arguments:
        found = resolve(argument)
        print(f"{argument}: {len(found.vocabulary):,} ids, {found.how}", file=sys.stderr)
        vocabularies.append(found.vocabulary)
    return vocabularies


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=False).print(renderable)


def _print_json(value: Any) -> None:
    from vocabkit.report.as_json import to_json

    print(to_json(value))


def _progress(title: str) -> Any:
    from vocabkit_cli.progress import byte_progress

    return byte_progress(title)
