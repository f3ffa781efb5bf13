"""Commands about vocabularies: build, compare, check and import them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .adapters import EmbeddingTensor, Features, Weights
from .options import (
    CORPUS,
    SOURCE,
    TOKENIZER,
    AsJson,
    Aspect,
    CorpusColumn,
    Everything,
    Html,
    Overwrite,
    Tokenizers,
    arrow_file,
    check_output,
    check_page,
    named_values,
    page_origin,
    resolve_all,
    resolve_one,
    write_page,
)
from .show import note, say, shared_as_json, show, show_json, show_progress, working

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vocabkit.tokenizer.vocabulary import Vocabulary


def build_shared(
    tokenizers: Tokenizers,
    out: Annotated[
        Path | None,
        typer.Option(help="Output file. [default: the names, as in qwen2-llama3.arrow]", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    at_least: Annotated[
        int | None,
        typer.Option(help="Keep tokens that at least this many tokenizers have. [default: all]", show_default=False),
    ] = None,
    union: Annotated[bool, typer.Option("--union", help="Keep every token: the same as --at-least 1.")] = False,
    special_roles: Annotated[
        bool, typer.Option("--special-roles", help="Also match special tokens, by role (bos, turn_end, ...).")
    ] = False,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=TOKENIZER:SPELLING",
            help="Give a special token of one tokenizer a role; implies --special-roles. May be repeated.",
            show_default=False,
        ),
    ] = None,
    reachable: Annotated[
        bool,
        typer.Option("--reachable", help="Leave out tokens that encode never produces in one of the tokenizers."),
    ] = False,
    rank_by: Annotated[
        list[Path] | None, typer.Option(help=f"Sort rows by frequency in {CORPUS}.", show_default=False)
    ] = None,
    words: Annotated[
        list[Path] | None,
        typer.Option(
            help="Make a row of each word, as every tokenizer spells it, instead of each shared token: the words of "
            f"{CORPUS}.",
            show_default=False,
        ),
    ] = None,
    phrases: Annotated[
        bool,
        typer.Option("--phrases", help="Also make rows of words that belong together, such as `teddy bear`."),
    ] = False,
    names: Annotated[
        Path | None,
        typer.Option(
            help="Also make a row of each line of this text file: a word or phrase, such as the name of a class of a "
            "vision model.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep only this many of the most frequent rows, and those of --names beside them.",
            show_default=False,
        ),
    ] = None,
    count_with: Annotated[
        str | None,
        typer.Option(help="Name of the tokenizer that cuts the corpus. [default: the first]", show_default=False),
    ] = None,
    text_column: CorpusColumn = None,
    json: AsJson = False,
) -> None:
    """Build the shared vocabulary of two or more tokenizers.

    The result is one Arrow file: a row for each shared token or, with --words, for each word; a column of ids for each
    tokenizer (see docs/formats.md).
    """
    from vocabkit.errors import VocabkitError, counted, quote
    from vocabkit.shared.align import align, unmatched_roles

    if union and at_least is not None:
        raise VocabkitError("--union is --at-least 1; give only one of the two")
    if not rank_by and not words and (top or count_with or text_column):
        raise VocabkitError("--top, --count-with and --text-column need a corpus: add --rank-by FILE")
    of_tokens = {
        "--special-roles": special_roles, "--role": role, "--reachable": reachable, "--rank-by": rank_by,
        "--count-with": count_with,
    }  # fmt: skip
    if phrases and not words:
        raise VocabkitError("--phrases needs captions: add --words FILE")
    of_words = bool(words or names)
    if of_words and (given := next((name for name, value in of_tokens.items() if value), None)):
        raise VocabkitError(f"{given} is for rows of tokens; leave it out with --words, whose rows are ranked already")
    found = resolve_all(tokenizers)
    vocabularies = _with_given_roles([each.vocabulary for each in found], role or ())
    special_roles = special_roles or bool(role)
    for vocabulary in vocabularies:
        for line in vocabulary.notes:
            note(f"{vocabulary.name}: {line}")
    path = out or arrow_file("-".join(vocabulary.name for vocabulary in vocabularies))
    check_output(
        path, [*(each.file for each in found), *(rank_by or ()), *(words or ()), *([names] if names else ())], overwrite
    )
    at_least = 1 if union else at_least
    if of_words:
        from vocabkit.shared.align_words import align_words
        from vocabkit.shared.words import read_names

        with show_progress() as progress:
            shared = align_words(
                vocabularies, words or (), top=top, at_least=at_least, phrases=phrases,
                names=read_names(names) if names else (), text_column=text_column, progress=progress,
            )  # fmt: skip
    else:
        with working("aligning"):
            shared = align(vocabularies, at_least=at_least, special_roles=special_roles, reachable=reachable)
    if rank_by:
        from vocabkit.shared.rank import rank

        named = {vocabulary.name: vocabulary for vocabulary in vocabularies}
        if count_with is not None and count_with not in named:
            raise VocabkitError(f"--count-with {quote(count_with)}: name one of {', '.join(named)}")
        counter = named[count_with] if count_with else vocabularies[0]
        with show_progress() as progress:
            shared = rank(shared, counter, rank_by, top=top, text_column=text_column, progress=progress)
    shared.save(path)
    unmatched = unmatched_roles(vocabularies, shared) if special_roles else {}
    if json:
        show_json({**shared_as_json(path, shared), **({"unmatched_roles": unmatched} if special_roles else {})})
        return
    required, count = shared.selection.at_least, len(shared.names)
    rows = counted(len(shared), "word" if of_words else "shared token" if required == count else "token")
    if phrases or names is not None:
        rows += " or phrase" if len(shared) == 1 else " and phrases"
    what = rows if required == count else f"{rows} that {required} or more of {count} have"
    say(f"{path}: {what}, {shared.fingerprint}")
    for info in shared.tokenizers:
        if of_words:
            lengths = shared.spellings(info.name).lengths
            say(f"  {info.name}: {(lengths == 1).sum():,} of one token, at most {lengths.max()}")
        else:
            say(f"  {info.name}: {shared.mask_for(info.name).sum() / info.size:.1%} of {info.size:,} ids")
    if special_roles:
        say(f"  roles matched: {', '.join(shared.roles) or 'none'}")
    for one, lacking in unmatched.items():
        say(f"  role {one} not matched, missing in {', '.join(lacking)}")
    if shared.selection.unreachable is not None:
        say(f"  {counted(shared.selection.unreachable, 'token')} left out that encode never produces")
    if shared.selection.mass_kept is not None and (words or rank_by):
        total = counted(shared.selection.corpus_tokens or 0, "corpus word" if words else "corpus token")
        say(f"  {shared.selection.mass_kept:.2%} of {total} kept")


def _with_given_roles(vocabularies: list[Vocabulary], given: Sequence[str]) -> list[Vocabulary]:
    """Apply --role. Raises VocabkitError: another form, an unknown tokenizer, or not a special token of it."""
    from vocabkit.errors import VocabkitError, quote
    from vocabkit.tokenizer.special_tokens import with_roles

    named = {vocabulary.name: vocabulary for vocabulary in vocabularies}
    for argument in given:
        role, _, rest = argument.partition("=")
        name = max((name for name in named if rest.startswith(f"{name}:")), key=len, default=None)
        if not role or name is None:
            known = ", ".join(named)
            raise VocabkitError(f"--role {quote(argument)} is not ROLE=TOKENIZER:SPELLING with one of {known}")
        named[name] = with_roles(named[name], {role: rest.removeprefix(f"{name}:")})
    return list(named.values()) if given else vocabularies


def check(
    file: Annotated[
        str,
        typer.Argument(
            help="A shared vocabulary, or a transferred adapter (folder, .pt or hub id).", show_default=False
        ),
    ],
    original: Annotated[
        str | None, typer.Argument(help="For an adapter: the adapter before the transfer.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            help=f"NAME=SOURCE for a tokenizer that can't be found otherwise; SOURCE is {SOURCE}. May be repeated.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="For an adapter: the LLM that it was transferred to.", show_default=False),
    ] = None,
    weights: Weights = None,
    embedding_tensor: EmbeddingTensor = None,
    features: Features = None,
    html: Html = None,
    overwrite: Overwrite = False,
    validation: Annotated[
        Path | None, typer.Option(help="For --html: results of `validate --out`.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Prove a shared vocabulary or a transferred adapter.

    Every id of a shared vocabulary is looked up in its tokenizer. The visual tokens of a transferred adapter are
    compared with Eq. 5-6, computed in float64 from the adapter before the transfer and the target's own embedding
    table, for random patches and, with --features, for real ones. Exit code 1 if something is wrong.
    """
    from vocabkit.errors import VocabkitError

    of_adapter = {
        "ORIGINAL": original, "--to": to, "--weights": weights,
        "--embedding-tensor": embedding_tensor, "--features": features, "--html": html, "--validation": validation,
    }  # fmt: skip
    given = [name for name, value in of_adapter.items() if value is not None]
    if _starts_with(Path(file), b"ARROW1") or not (given or Path(file).is_dir() or Path(file).suffix == ".pt"):
        if given:
            raise VocabkitError(f"{file}: is a shared vocabulary; leave out {given[0]}, which is for adapters")
        _check_shared(Path(file), tokenizer, json=json)
    elif original is None or to is None:
        raise VocabkitError(f"{file}: to check a transferred adapter, add the adapter before it and --to TARGET")
    elif tokenizer:
        raise VocabkitError(f"{file}: is an adapter; leave out --tokenizer, which is for shared vocabularies")
    else:
        from .adapters import check_adapter

        check_adapter(file, original, to, weights, embedding_tensor, features, html, overwrite, validation, json)


def _starts_with(path: Path, magic: bytes) -> bool:
    """Whether `path` is a file that starts with `magic`; False if it can't be read, which its reader reports."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _check_shared(file: Path, tokenizer: list[str] | None, *, json: bool) -> None:
    from vocabkit.errors import VocabkitError, quote
    from vocabkit.shared.shared_vocabulary import open_shared
    from vocabkit.shared.verify import verify
    from vocabkit.tokenizer.catalog import catalog, local_origin, resolve_again

    shared = open_shared(file)
    sources = named_values(tokenizer, "--tokenizer")
    if unknown := sorted(sources.keys() - set(shared.names)):
        raise VocabkitError(f"--tokenizer {quote(unknown[0])}: name one of {', '.join(shared.names)}, as in {file}")
    known = catalog()
    vocabularies: dict[str, Vocabulary] = {}
    missing = []
    for info in shared.tokenizers:
        again = None
        if info.name not in sources and info.origin is not None:
            again = resolve_again(info.origin, info.fingerprint, file.parent, info.given_roles)
        if again is not None:
            note(f"{info.name}: {len(again.vocabulary):,} ids, {again.how}")
            vocabularies[info.name] = again.vocabulary
        elif info.name in sources or info.name.lower() in known:
            vocabularies[info.name] = resolve_one(sources.get(info.name, info.name)).vocabulary
        else:  # the file may come from anyone: a name in it must not open a path or a hub repository
            missing.append(info.name)
    if missing:
        origins = {info.name: info.origin for info in shared.tokenizers if info.name in missing}
        moved = {name: path for name, origin in origins.items() if (path := local_origin(origin, file.parent))}
        options = " ".join(f"--tokenizer {quote(name)}={moved.get(name, 'SOURCE')}" for name in missing)
        verb = "is not in the catalog or where it was found" if len(missing) == 1 else "are not in the catalog"
        changed = [f"{name} was {quote(str(path))}, which has changed since" for name, path in moved.items()]
        found = "; ".join([f"{', '.join(map(quote, missing))} {verb}", *changed])
        raise VocabkitError(f"{file}: {found}; add {options}")
    with working("checking"):
        verdict = verify(shared, vocabularies)
    if json:
        about = {"file": file, "rows": len(shared), "fingerprint": shared.fingerprint}
        show_json({**about, "problems": verdict.problems, "notes": verdict.notes})
    else:
        for line in (*verdict.problems, *verdict.notes):
            say(line)
        rows = "its row is" if len(shared) == 1 else f"all {len(shared):,} rows are"
        right = f"{rows} right in {', '.join(shared.names)}"
        say(f"{file}: {right if verdict.passed else 'does not fit its tokenizers'}")
    raise typer.Exit(0 if verdict.passed else 1)


def overlap(
    tokenizers: Tokenizers,
    reachability: Annotated[
        bool | None,
        typer.Option(
            "--reachability/--no-reachability",
            help="Count tokens that encode never produces. [default: for tokenizers of up to 50,000 ids]",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help=f"Also measure coverage of {CORPUS}.", show_default=False),
    ] = None,
    text_column: CorpusColumn = None,
    examples: Annotated[int, typer.Option(min=0, help="Tokens to list as examples of each finding.")] = 6,
    html: Html = None,
    overwrite: Overwrite = False,
    everything: Everything = False,
    json: AsJson = False,
) -> None:
    """Report what tokenizers have in common.

    Counts, coverage and scripts. With --all, also kinds and lengths of tokens, those that only one side has and how the
    other spells them, aliases, and roles of special tokens.
    """
    from vocabkit.errors import VocabkitError
    from vocabkit.shared.overlap import overlap as compare

    if text_column and not corpus:
        raise VocabkitError("--text-column needs a corpus: add --corpus FILE")
    found = resolve_all(tokenizers)
    check_page(html, [*(each.file for each in found), *(corpus or ())], overwrite)
    vocabularies = [each.vocabulary for each in found]
    counts = None
    if corpus:
        from vocabkit.shared.rank import count_tokens

        counts = {}
        for vocabulary in vocabularies:
            with show_progress() as progress:
                counts[vocabulary.name] = count_tokens(vocabulary, corpus, text_column=text_column, progress=progress)
    with working("comparing"):
        report = compare(vocabularies, examples=examples, reachability=reachability, counts=counts)
    if json:
        show_json(report)
    else:
        from vocabkit.report.vocabularies import overlap_report, overlap_summary

        show(overlap_report(report) if everything else overlap_summary(report))
        if not everything:
            note("more: --all for kinds, lengths, aliases and roles; --html FILE for a page with every token")
    if html is not None:
        from vocabkit.report.html.overlap import overlap_page, string_matching, token_table

        with working(f"making {html}"):
            # for more than two, `audit` is quicker, pair by pair
            matching = string_matching(vocabularies) if len(vocabularies) == 2 else None
            origin = page_origin({each.name: each.fingerprint for each in vocabularies})
            page = overlap_page(report, token_table(vocabularies), matching, origin)
        write_page(html, page)


def explain(
    token: Annotated[
        str,
        typer.Argument(
            help="Text, with escapes such as \\n or \\xe4; or id:279 for an id of the first tokenizer.",
            show_default=False,
        ),
    ],
    tokenizers: Tokenizers,
    json: AsJson = False,
) -> None:
    """Say why a token is shared by tokenizers, or why not."""
    from vocabkit.shared.explain import explain as look_up
    from vocabkit.shared.explain import parse_token
    from vocabkit.tokenizer.catalog import catalog as names

    if token.lower() in names():
        note(f"{token} is looked up as text: the token comes first, then two or more tokenizers")

    vocabularies = [found.vocabulary for found in resolve_all(tokenizers)]
    with working("looking it up"):
        found = look_up(parse_token(token, vocabularies[0]), vocabularies)
    if json:
        show_json(found)
    else:
        from vocabkit.report.vocabularies import explanation

        show(explanation(found))


def catalog(
    search: Annotated[
        str, typer.Argument(help="List names, and models on the hub, that contain this text.", show_default=False)
    ] = "",
    json: AsJson = False,
) -> None:
    """List the names of tokenizers and models that vocabkit knows.

    Example: vocabkit catalog llama3
    """
    from vocabkit.errors import VocabkitError, quote
    from vocabkit.tokenizer.catalog import catalog as all_entries
    from vocabkit.tokenizer.catalog import near_names

    wanted = search.lower()
    entries = [each for each in all_entries().values() if wanted in each.name or wanted in (each.hub or "").lower()]
    if not entries:
        raise VocabkitError(f"no catalog name contains {quote(search)}; {near_names(wanted)}")
    if json:
        show_json({"entries": entries})
    else:
        from vocabkit.report.vocabularies import catalog_table

        show(catalog_table(entries))


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A published index map (JSON), or LangBridge weights: mm_projector.bin, or a checkpoint folder.",
            show_default=False,
        ),
    ],
    tokenizers: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"For a map: the tokenizer whose ids it holds, then others that have its rows; each {TOKENIZER}.",
            show_default=False,
        ),
    ] = None,
    sister: Annotated[
        list[str] | None,
        typer.Option(
            help="For a map: NAME=FILE, the map published for one of the others, to check as well. May be repeated.",
            show_default=False,
        ),
    ] = None,
    counts: Annotated[
        Path | None,
        typer.Option(
            help="For a map: the corpus counts published beside it (JSON, {spelling: count}), to report how much of "
            "the corpus its rows cover.",
            show_default=False,
        ),
    ] = None,
    shared: Annotated[
        Path | None, typer.Option(help="For weights: their shared vocabulary, from `import MAP`.", show_default=False)
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            help="For weights: the LLM that they were trained with, by its name in --shared.", show_default=False
        ),
    ] = None,
    vision: Annotated[
        str | None,
        typer.Option(
            help="For weights: the vision model that they were trained with, to record. [default: as config.json says]",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="For weights: its hidden layer, numbered as in transformers; -2 in the published recipe. "
            "[default: as config.json says]",
            show_default=False,
        ),
    ] = None,
    image_aspect_ratio: Annotated[
        Aspect | None,
        typer.Option(
            help="For weights: what was seen of pictures that are not square. [default: as config.json says]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output file. [default: MAP.arrow, or adapter.pt]", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Import a published index map, or LangBridge's weights.

    A map becomes a shared vocabulary: every row is checked against the tokenizers, and the map is refused if one is
    wrong. Weights become an adapter that carries its shared vocabulary and can be given to `vocabkit transfer`.
    """
    from vocabkit.errors import VocabkitError

    of_weights = {"--shared": shared, "--llm": llm, "--vision": vision, "--layer": layer}
    of_weights["--image-aspect-ratio"] = image_aspect_ratio
    given = [name for name, value in of_weights.items() if value is not None]
    if _is_json(source, otherwise=bool(tokenizers)):
        if given:
            raise VocabkitError(f"{source}: is a map; leave out {given[0]}, which is for weights")
        if not tokenizers:
            raise VocabkitError(f"{source}: is a map; name the tokenizer whose ids it holds, then others")
        _import_map(source, tokenizers, sister, counts, out, overwrite=overwrite, json=json)
        return
    of_map = {"the tokenizers": tokenizers, "--sister": sister, "--counts": counts}
    if what := next((name for name, value in of_map.items() if value), None):
        raise VocabkitError(f"{source}: is not a map (JSON); leave out {what}, which are for maps")
    if not source.exists():
        raise VocabkitError(f"{source}: no such file or folder")
    if shared is None or llm is None:
        raise VocabkitError(f"{source}: is not a map (JSON); for weights, give --shared and --llm")
    from .adapters import import_adapter

    import_adapter(source, shared, llm, out or Path("adapter.pt"), overwrite, vision, layer, image_aspect_ratio, json)


def _is_json(path: Path, *, otherwise: bool) -> bool:
    """Whether `path` holds a JSON object or array; `otherwise` if it can't be read, which its reader reports."""
    if not path.is_file():
        return otherwise and not path.is_dir()
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    except OSError:
        return otherwise


def _import_map(
    file: Path,
    tokenizers: list[str],
    sister: list[str] | None,
    counts: Path | None,
    out: Path | None,
    *,
    overwrite: bool,
    json: bool,
) -> None:
    from vocabkit.shared.maps import import_map

    sisters = {name: Path(path) for name, path in named_values(sister, "--sister").items()}
    found = resolve_all(tokenizers)
    path = out or arrow_file(file.stem)
    inputs = [file, *sisters.values(), *([counts] if counts else []), *(each.file for each in found)]
    check_output(path, inputs, overwrite)
    first, *rest = (each.vocabulary for each in found)
    with working(f"checking {file}"):
        shared = import_map(file, first, rest, sisters, counts=counts)
    shared.save(path)
    if json:
        show_json(shared_as_json(path, shared))
    else:
        say(f"{path}: all {len(shared):,} rows proven in {', '.join(shared.names)}, {shared.fingerprint}")
        if shared.selection.mass_kept is not None:
            say(f"  {shared.selection.mass_kept:.2%} of {shared.selection.corpus_tokens:,} corpus tokens kept")


def audit(
    translation: Annotated[
        str,
        typer.Argument(
            metavar="MAP",
            help="A JSON map from source ids or spellings to target ids; or a rule: `spelling` (string equality), "
            "`assistant` (transformers' assisted decoding), `tli` (vLLM) or `gold` (TRL).",
            show_default=False,
        ),
    ],
    source: Annotated[str, typer.Argument(help=f"The source tokenizer: {TOKENIZER}.", show_default=False)],
    target: Annotated[str, typer.Argument(help="The target tokenizer.", show_default=False)],
    target_map: Annotated[
        Path | None,
        typer.Option(
            help="A second index map of the same rows, with the target's ids; MAP then holds the source's.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind.")] = 6,
    json: AsJson = False,
) -> None:
    """Compare another tool's token map with the exact one.

    Count and show what it gets right, gets wrong and misses.
    """
    from vocabkit.errors import VocabkitError, did_you_mean
    from vocabkit.shared.audit import TRANSLATIONS, read_translation, spellings
    from vocabkit.shared.audit import audit as judge

    by_rule = translation in TRANSLATIONS and not Path(translation).exists()
    if not by_rule and not Path(translation).exists():
        near = did_you_mean(translation, TRANSLATIONS, f"the rules are {', '.join(TRANSLATIONS)}")
        raise VocabkitError(f"{translation}: no such file, and no rule; {near}")
    if by_rule and target_map is not None:
        raise VocabkitError(f"--target-map goes with a MAP of ids, not with {translation}")
    first, second = (each.vocabulary for each in resolve_all([source, target]))
    if by_rule:
        pairs = TRANSLATIONS[translation](spellings(first), spellings(second))
    else:
        pairs = read_translation(Path(translation), first, target_map)
    with working("comparing"):
        found = judge(pairs, first, second, examples=examples)
    if json:
        show_json(found)
    else:
        from vocabkit.report.vocabularies import audit_report

        show(audit_report(found))
