"""infer: visual tokens, coefficients and captions of pictures."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from .arguments import AsJson, ImageColumn, Split, grid_size
from .show import count_progress, note_broken, say, show_json


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
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ... [default: cuda, if there is one]", show_default=False)
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    json: AsJson = False,
) -> None:
    """Compute the visual tokens of pictures, or with --top and --captions what is in them.

    An interrupted run goes on where it was. Missing and broken pictures are reported and left out.
    """
    import torch

    from vocabkit.allocation import keep_freed_memory
    from vocabkit.devices import fitting_memory
    from vocabkit.inference.models import Captioning, Wanted
    from vocabkit.inference.run import infer_files
    from vocabkit.prompts import parse_template

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
