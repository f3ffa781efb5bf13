"""infer: visual tokens, coefficients and captions of pictures."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from .options import AsJson, Device, Html, ImageColumn, Split, check_page, grid_size, write_page
from .show import count_progress, note_broken, say, show, show_json


class Arithmetic(enum.StrEnum):
    """What models compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def infer(
    adapter: Annotated[
        str, typer.Argument(help="A checkpoint folder, an adapter.pt, or a hub id.", show_default=False)
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders of images, LLaVA JSON, or data sets of Hugging Face (folder or hub id).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write, or to go on with.", show_default=False)],
    llm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="The LLM, for --captions, and for visual tokens of an adapter that was not transferred.",
            show_default=False,
        ),
    ] = None,
    vision: Annotated[
        str | None, typer.Option(help="The vision model. [default: as in training]", show_default=False)
    ] = None,
    keep_cls: Annotated[
        bool, typer.Option("--keep-cls", help="Keep class and register tokens, if the adapter does not say.")
    ] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="ROWSxCOLUMNS", help="Pool the grid of patches, if the adapter does not say.", show_default=False
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Write the K tokens of each patch with the largest coefficients."),
    ] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Have the LLM caption the pictures.")] = False,
    visual_tokens: Annotated[
        bool, typer.Option("--visual-tokens", help="Write visual tokens, too, beside --top or --captions.")
    ] = False,
    question: Annotated[str, typer.Option(help="What a caption answers.")] = "<image>",
    template: Annotated[str, typer.Option(help="plain, completion or chat.")] = "plain",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a caption.")] = 64,
    images: Annotated[Path | None, typer.Option(help="Folder of the images in LLaVA JSON.", show_default=False)] = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 32,
    dtype: Annotated[
        Arithmetic | None,
        typer.Option(
            help="Of models and visual tokens. [default: bfloat16 on a GPU, else float32]", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    json: AsJson = False,
) -> None:
    """Compute the visual tokens of pictures, or with --top and --captions what is in them.

    An interrupted run goes on where it was. Missing and broken pictures are reported and left out.
    """
    import torch

    from vocabkit.infer.batch import Captioning, Wanted
    from vocabkit.infer.infer import infer_files
    from vocabkit.llm.devices import fitting_memory, keep_freed_memory
    from vocabkit.llm.prompts import parse_template

    keep_freed_memory()
    wanted = Wanted(
        visual_tokens or not (top or captions),
        top,
        Captioning(question, parse_template(template), max_new_tokens) if captions else None,
    )
    with fitting_memory(batch), count_progress("pictures") as progress:
        run = infer_files(
            adapter, inputs, out, wanted, llm=llm, vision=vision, keep_cls=keep_cls or None,
            pool=None if pool is None else grid_size(pool), images=images, split=split, image_column=image_column,
            batch=batch, device=device, dtype=None if dtype is None else getattr(torch, dtype.value), progress=progress,
        )  # fmt: skip
    report = run.report
    if json:
        show_json(run)
        return
    say(
        f"{out}: results of {report.pictures - report.broken:,} pictures; {report.present:,} were there, "
        f"{report.computed:,} computed on {run.device} in {run.settings['dtype']}, {report.per_second:,.1f} a second"
    )
    for picture, caption in report.first_captions.items():
        say(f"  {picture}: {caption}")
    note_broken(report.broken, report.pictures, report.first_broken)
    if profile:
        say(f"{report.profile.seconds:.1f} s of wall time:")
        for stage, share in report.profile.shares.items():
            say(f"  {share:6.1%}  {stage}")
        if report.profile.busy is not None:
            say(f"  {report.profile.busy:6.1%}  GPU busy")


# MERGED: interpret: what images become in words.


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
    from vocabkit.interpret.interpret import interpret_files
    from vocabkit.llm.devices import keep_freed_memory

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
