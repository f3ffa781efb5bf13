"""scenes: data to train and measure with, made offline."""

from __future__ import annotations

import enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .arguments import AsJson
from .show import count_progress, say, show_json


class Split(enum.StrEnum):
    """See `vocabkit.data.scenes`."""

    TRAIN = "train"
    RENDERING = "rendering"
    COMBINATION = "combination"
    DRAWING = "drawing"


def scenes(
    out: Annotated[Path, typer.Argument(help="A new folder.", show_default=False)],
    train: Annotated[int, typer.Option(min=1, help="Pictures to train on.")] = 12_000,
    held_out: Annotated[int, typer.Option(min=1, help="Pictures in each of the three held-out splits.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Width and height of the pictures in pixels.")] = 224,
    only: Annotated[
        list[Split] | None,
        typer.Option(help="Draw this split only; may be repeated. By default all four.", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Draw captioned scenes of OpenMoji drawings.

    One split to train on and three held out: known scenes drawn anew, new combinations of known drawings, and new
    drawings. All in LLaVA's JSON format.
    """
    from vocabkit.data.scene_files import write_scenes

    with count_progress() as progress:
        splits = write_scenes(
            out,
            train=train,
            held_out=held_out,
            seed=seed,
            size=size,
            only=[split.value for split in only or Split],
            progress=partial(progress, "drawing scenes"),
        )
    if json:
        show_json({"folder": out, "seed": seed, "size": size, "splits": splits})
        return
    for split in splits:
        kinds = f"{split.single:,} single, {split.pair:,} pair, {split.count:,} counted"
        say(f"{split.file}: {split.pictures:,} pictures ({kinds}) of {split.drawings:,} drawings")
