"""features: patch features of a frozen vision encoder, computed once."""

from __future__ import annotations

import enum
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from .arguments import DATA, AsJson, ImageColumn, Split, grid_size
from .show import count_progress, note_broken, say, show_json


class Stored(enum.StrEnum):
    """How features are stored."""

    float16 = "float16"
    float32 = "float32"


def features(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help=f"{DATA}, with the pictures.", show_default=False)
    ],
    vision: Annotated[
        str, typer.Option(help="A vision model, folder or hub id, or efficientnet-lite0.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write, or to go on with.", show_default=False)],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures. [default: that of each file of data]", show_default=False),
    ] = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    layer: Annotated[int, typer.Option(help="Hidden states to take, as transformers counts them.")] = -2,
    keep_cls: Annotated[bool, typer.Option("--keep-cls", help="Keep class and register tokens.")] = False,
    pool: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Pool the grid of patches, as in 4x4.", show_default=False),
    ] = None,
    dtype: Annotated[Stored, typer.Option(help="How features are stored.")] = Stored.float16,
    json: AsJson = False,
) -> None:
    """Compute the patch features of a frozen vision model once, for training.

    An interrupted run goes on where it was. Missing and broken pictures are counted and left out.
    """
    import torch

    from vocabkit.allocation import keep_freed_memory
    from vocabkit.data import Columns, pictures_of
    from vocabkit.features import cache_features
    from vocabkit.vision import open_vision

    keep_freed_memory()
    columns = Columns(split, image_column)
    found = [pictures_of(source, images, columns) for source in data]
    gpu = torch.cuda.is_available()
    encoder = open_vision(
        vision,
        layer=layer,
        keep_cls=keep_cls,
        pool=None if pool is None else grid_size(pool),
        device="cuda" if gpu else "cpu",
        dtype=torch.float16 if gpu else torch.float32,
    )
    listed = [each for each in found if isinstance(each, list)]
    total = len({picture.key for each in listed for picture in each}) if len(listed) == len(found) else None
    with count_progress("pictures") as progress:
        report = cache_features(
            encoder,
            chain.from_iterable(found),
            out,
            dtype=getattr(torch, dtype.value),
            progress=lambda done: progress(encoder.name, done, total),
        )
    if json:
        show_json({"folder": out, "encoder": encoder.info, "report": report})
        return
    say(
        f"{out}: {report.pictures - report.broken:,} pictures, {encoder.tokens} x {encoder.width} features of "
        f"{encoder.name} each; {report.cached:,} were there, {report.computed:,} computed"
    )
    note_broken(report.broken, report.pictures, report.first_broken)
