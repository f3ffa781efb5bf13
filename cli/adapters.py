"""transfer and check-transfer: moving an adapter to another LLM, and proving that it was moved rightly."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vocabkit_cli.arguments import TOKENIZER, AsJson
from vocabkit_cli.show import byte_progress, show, show_json

if TYPE_CHECKING:
    from vocabkit.transfer import Target


class MissingRows(enum.StrEnum):
    """What becomes of rows whose token the target lacks."""

    error = "error"
    drop = "drop"
    compose = "compose"


class Export(enum.StrEnum):
    """Formats of other programs."""

    llava = "llava"
    mmproj = "mmproj"
    mm_projector = "mm_projector"


Adapter = Annotated[str, typer.Argument(help="A checkpoint folder, an adapter.pt, or a hub id.", show_default=False)]
To = Annotated[
    str,
    typer.Option(
        "--to", metavar="TARGET", help="The LLM: a model folder, a GGUF, a catalog model or a hub id.", show_default=False
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Where to read its embedding table, if not there: folder, file or hub id.", show_default=False),
]
Features = Annotated[
    Path | None,
    typer.Option(help="Real patch features: a safetensors file with `features` (N, Dv).", show_default=False),
]


def transfer(
    adapter: Adapter,
    to: To,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder, *.pt or exported file to write. [default: only report]", show_default=False),
    ] = None,
    weights: Weights = None,
    missing: Annotated[
        MissingRows, typer.Option(help="Tokens that the target lacks: refuse, drop them, or compose them of its own.")
    ] = MissingRows.error,
    scale: Annotated[
        str, typer.Option(help="Factor on the visual tokens: none, rms (needs --features), or a number.")
    ] = "none",
    features: Features = None,
    fold: Annotated[bool, typer.Option("--fold", help="Write a plain two-layer projector (linear heads only).")] = False,
    export: Annotated[
        Export | None, typer.Option(help="Write the format of another program.", show_default=False)
    ] = None,
    vision: Annotated[
        Path | None, typer.Option(help="Vision model folder, for --export llava and mmproj.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Move a trained adapter to another LLM.

    Nothing is retrained: the adapter's coefficients go over the embedding rows of the target. The report comes first;
    with --out the result is written.
    """
