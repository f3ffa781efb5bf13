"""interpret: what images become in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import grid_size
from .page import Html, check_page, write_page
from .show import count_progress, note_broken, show, show_json


def interpret(
    adapter: Annotated[str, typer.Argument(help="An adapter: folder, .pt or hub id.", show_default=False)],
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Pictures, or LLaVA JSON or JSONL files, which also say what theirs show.",
            show_default=False,
        ),
    ],
    llm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="An LLM whose words are asked for, by a model folder, GGUF, catalog model or hub id; may be repeated. "
            "[default: the adapter's own]",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Tokens of each patch.", min=1, max=100)] = 5,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the adapter's training with keep_adapters, which holds step-*/adapter.",
            show_default=False,
        ),
    ] = None,
    vision: Annotated[
        str | None, typer.Option(help="The vision model. [default: that of the training]", show_default=False)
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Hidden states of it. [default: those of the training]", show_default=False)
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Pool the grid of patches, as in training.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures of data. [default: that of each file]", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="Pictures of each file of data, from its start.", min=1)] = 10,
    html: Html = None,
    json: Annotated[bool, typer.Option("--json/--terminal", help="Print JSON, or show it in the terminal.")] = False,
) -> None:
    """Show what images become in words: the vocabulary tokens that their visual tokens stand for.

    Of each patch the tokens nearest by cosine similarity, among the LLM's whole vocabulary, and the largest
    coefficients of the head; of each image the tokens with the most mass; over checkpoints the development. No LLM is
    loaded, only its embedding table is read. Missing and broken pictures are reported and left out.
    """
    from vocabkit.allocation import keep_freed_memory
    from vocabkit.interpretation.run import interpret_files

    check_page(html, pictures)
    keep_freed_memory()
    size = None if pool is None else grid_size(pool)
    with count_progress() as progress:
        found = interpret_files(
            adapter, pictures, llms=llm or (), vision=vision, layer=layer, pool=size,
            image_folder=images, limit=limit, top=top, checkpoints=checkpoints, progress=progress,
        )  # fmt: skip
    note_broken(len(found.broken), len(found.images) + len(found.broken), found.broken)
    if html is not None:
        from vocabkit.report.html.interpretation import interpretation_page, picture_uri

        write_page(html, interpretation_page(found, [picture_uri(image) for image in found.images]))
    if json:
        show_json(found)
        return
    from vocabkit.report.interpretation import interpretation_report

    show(interpretation_report(found))
