"""build-shared and check: making a shared vocabulary, and proving one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import (
    TOKENIZER,
    AsJson,
    Corpus,
    Field,
    Tokenizers,
    arrow_file,
    check_output,
    named_paths,
    resolve_all,
    resolve_one,
)
from .show import byte_progress, say, shared_as_json, show_json


def build_shared(
    tokenizers: Tokenizers,
    out: Annotated[
        Path | None, typer.Option(help="Output file. [default: the names joined, .arrow]", show_default=False)
    ] = None,
    at_least: Annotated[
        int | None,
        typer.Option(help="Keep tokens that this many tokenizers have. [default: all of them]", show_default=False),
    ] = None,
    union: Annotated[bool, typer.Option("--union", help="Keep every token: the same as --at-least 1.")] = False,
    special_roles: Annotated[
        bool, typer.Option("--special-roles", help="Also match special tokens, by role (bos, turn_end, ...).")
    ] = False,
    rank_by: Corpus = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Keep only the N most frequent rows of the corpus.", show_default=False)
    ] = None,
    count_with: Annotated[
        str | None, typer.Option(help="Name of the tokenizer that counts. [default: the first]", show_default=False)
    ] = None,
    field: Field = None,
    json: AsJson = False,
) -> None:
    """Build the shared vocabulary of two or more tokenizers.

    The result is one Arrow file: a row per shared token, a column of ids per tokenizer (see docs/formats.md).
    """
    from vocabkit.alignment import align
    from vocabkit.errors import VocabkitError, quote

    if union and at_least is not None:
        raise VocabkitError("--union and --at-least say the same thing; give one of them")
    if not rank_by and (top or count_with or field):
        raise VocabkitError("--top, --count-with and --field need a corpus: add --rank-by FILE")
    found = resolve_all(tokenizers)
    vocabularies = [each.vocabulary for each in found]
    path = out or arrow_file("-".join(vocabulary.name for vocabulary in vocabularies))
    check_output(path, [*(each.file for each in found), *(rank_by or ())])
    shared = align(vocabularies, at_least=1 if union else at_least, special_roles=special_roles)
    if rank_by:
        from vocabkit.ranking import rank

        named = {vocabulary.name: vocabulary for vocabulary in vocabularies}
        if count_with is not None and count_with not in named:
            raise VocabkitError(f"--count-with {quote(count_with)}: name one of {', '.join(named)}")
        counter = named[count_with] if count_with else vocabularies[0]
        with byte_progress("counting tokens") as progress:
            shared = rank(shared, counter, rank_by, top=top, field=field, progress=progress)
    shared.save(path)
    if json:
        show_json(shared_as_json(path, shared))
        return
    required, count = shared.selection.at_least, len(shared.names)
    what = "shared tokens" if required == count else f"tokens that {required} or more of {count} have"
    say(f"{path}: {len(shared):,} {what}, {shared.fingerprint}")
    for info in shared.tokenizers:
        say(f"  {info.name}: {shared.mask_for(info.name).sum() / info.size:.1%} of {info.size:,} ids")
    if shared.selection.mass_kept is not None:
        say(f"  {shared.selection.mass_kept:.2%} of {shared.selection.corpus_tokens:,} corpus tokens kept")


def check(
    file: Annotated[Path, typer.Argument(help="A shared vocabulary.", show_default=False)],
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            help=f"NAME=SOURCE for a tokenizer that is not in the catalog; SOURCE is {TOKENIZER}. May be repeated.",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Prove a shared vocabulary row by row.

    Every id is looked up in its tokenizer. Exit code 1 if a row is wrong.
    """
    from vocabkit.catalog import catalog
    from vocabkit.errors import VocabkitError, quote
    from vocabkit.shared import open_shared
    from vocabkit.verification import verify

    shared = open_shared(file)
    sources = named_paths(tokenizer, "--tokenizer")
    if unknown := sorted(sources.keys() - set(shared.names)):
        raise VocabkitError(f"--tokenizer {quote(unknown[0])}: name one of {', '.join(shared.names)}, as in {file}")
    known = catalog()
    # the file may come from anyone: its names open no path and no hub repository
    if missing := [name for name in shared.names if name not in sources and name.lower() not in known]:
        options = " ".join(f"--tokenizer {quote(name)}=SOURCE" for name in missing)
        verb = "is no catalog name" if len(missing) == 1 else "are no catalog names"
        raise VocabkitError(f"{file}: {', '.join(map(quote, missing))} {verb}; add {options}")
    vocabularies = {name: resolve_one(sources.get(name, name)).vocabulary for name in shared.names}
    problems = verify(shared, vocabularies)
    if json:
        show_json({"file": file, "rows": len(shared), "fingerprint": shared.fingerprint, "problems": problems})
    else:
        for problem in problems:
            say(problem)
        right = f"all {len(shared):,} rows are right in {', '.join(shared.names)}"
        say(f"{file}: {'does not fit its tokenizers' if problems else right}")
    raise typer.Exit(1 if problems else 0)
