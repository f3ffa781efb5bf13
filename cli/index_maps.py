"""import-map and audit: index maps and token translations made by other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import TOKENIZER, AsJson, arrow_file, check_output, named_paths, resolve_all
from .show import say, shared_as_json, show, show_json

Owner = Annotated[str, typer.Argument(help=f"The tokenizer whose ids the map holds: {TOKENIZER}.", show_default=False)]


def import_map(
    file: Annotated[Path, typer.Argument(metavar="MAP", help="A published index map (JSON).", show_default=False)],
    owner: Owner,
    others: Annotated[list[str], typer.Argument(help="Further tokenizers that share the rows.", show_default=False)],
    sister: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE: the map published for one of the others, to be checked too. May be repeated.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output file. [default: the name of MAP, .arrow]", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Turn a published index map into a shared vocabulary.

    Every row is proven with the tokenizers; the map is refused if one is wrong.
    """
    from vocabkit.index_maps import import_map as prove

    sisters = {name: Path(path) for name, path in named_paths(sister, "--sister").items()}
    found = resolve_all([owner, *others])
    path = out or arrow_file(file.stem)
    check_output(path, [file, *sisters.values(), *(each.file for each in found)])
    first, *rest = (each.vocabulary for each in found)
    shared = prove(file, first, rest, sisters)
    shared.save(path)
    if json:
        show_json(shared_as_json(path, shared))
    else:
        say(f"{path}: all {len(shared):,} rows proven in {', '.join(shared.names)}, {shared.fingerprint}")


def audit(
    translation: Annotated[
        str,
        typer.Argument(
            metavar="MAP",
            help="A JSON map from source ids or spellings to target ids; or `spelling` or `assistant`: what plain "
            "string equality or transformers' assisted decoding takes for equal.",
            show_default=False,
        ),
    ],
    source: Annotated[str, typer.Argument(help=f"The source tokenizer: {TOKENIZER}.", show_default=False)],
    target: Annotated[str, typer.Argument(help="The target tokenizer.", show_default=False)],
    target_map: Annotated[
        Path | None,
        typer.Option(
            help="A second index map of the same rows, with ids of the target; MAP then holds ids of the source.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each sort.")] = 6,
    json: AsJson = False,
) -> None:
    """Compare another tool's token map with the exact one.

    Counts and shows what it gets right, gets wrong and misses.
    """
    from vocabkit.audit import TRANSLATIONS, read_translation, spellings
    from vocabkit.audit import audit as judge
    from vocabkit.errors import VocabkitError

    by_rule = translation in TRANSLATIONS and not Path(translation).exists()
    if by_rule and target_map is not None:
        raise VocabkitError(f"--target-map goes with a MAP of ids, not with {translation}")
    first, second = (each.vocabulary for each in resolve_all([source, target]))
    if by_rule:
        pairs = TRANSLATIONS[translation](spellings(first), spellings(second))
    else:
        pairs = read_translation(Path(translation), first, target_map)
    found = judge(pairs, first, second, examples=examples)
    if json:
        show_json(found)
    else:
        from vocabkit.report.terminal import audit_report

        show(audit_report(found))
