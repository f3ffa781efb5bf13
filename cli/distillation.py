"""distill and export: a projector that stock programs can hold, and the formats that they read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .adapters import Export, check_export, check_trained_features, write_export
from .arguments import AsJson
from .show import count_progress, note, say, show_json


def distill(
    adapter: Annotated[str, typer.Argument(help="What `transfer --out` wrote: folder or .pt.", show_default=False)],
    features: Annotated[Path, typer.Option(help="Patch features to fit on, of `vocabkit features`.")],
    out: Annotated[Path, typer.Option(help="Folder or *.pt for the projector.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="LLaVA JSON or JSONL with the pictures to fit on; may be repeated. [default: all in FEATURES]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of 1,024 patches each.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of initial weights, patches and noise.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    json: AsJson = False,
) -> None:
    """Fit a stock two-layer projector to a transferred adapter that does not fold into one.

    Its head is a softmax, or linear with more hidden units than the LLM is wide. The projector serves this one LLM and
    only approximates the adapter: the error on held-out pictures is reported and recorded. What it costs in caption
    loss is told by `vocabkit validate`; `vocabkit export` writes it for other programs.
    """
    from vocabkit.allocation import keep_freed_memory
    from vocabkit.data import read_llava
    from vocabkit.destination import check_destination
    from vocabkit.devices import open_device
    from vocabkit.distillation import distil
    from vocabkit.features import open_features
    from vocabkit.transferred import TransferredAdapter

    keep_freed_memory()
    check_destination(out, "mlp")
    place = open_device(device)
    keys = None if not data else {image.key for file in data for sample in read_llava(file) for image in sample.images}
    moved, cache = TransferredAdapter.from_pretrained(adapter), open_features(features)
    with count_progress() as progress:
        projector, report = distil(moved, cache, keys=keys, steps=steps, seed=seed, device=place, progress=progress)
    projector.save(out)
    if report.warning:
        note(f"warning: {report.warning}")
    if json:
        show_json({"file": out, "config": projector.config, "report": report, "warning": report.warning})
        return
    say(
        f"{out}: a projector for {report.llm}, fitted on {report.pictures:,} pictures; relative error "
        f"{report.relative_error:.3f} on {report.held_out:,} others (0 is the adapter itself, 1 the mean token)"
    )


def export(
    projector: Annotated[
        str,
        typer.Argument(
            help="A distilled projector, an MLP, or a transferred adapter with a linear head: folder, .pt or hub id.",
            show_default=False,
        ),
    ],
    form: Annotated[Export, typer.Option("--as", help="What to write, as for `transfer --export`.")],
    out: Annotated[Path, typer.Option(help="Folder or file to write.")],
    llm: Annotated[str | None, typer.Option(help="The LLM, for --as llava.", show_default=False)] = None,
    vision: Annotated[
        str | None, typer.Option(help="Vision model, folder or hub id, for --as llava and mmproj.", show_default=False)
    ] = None,
    keep_cls: Annotated[
        bool, typer.Option("--keep-cls", help="For --as llava: the adapter takes the class token, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a projector in the format of another program."""
    from vocabkit.adapter import LangBridgeAdapter
    from vocabkit.errors import VocabkitError
    from vocabkit.fold import fold
    from vocabkit.lvlm import load_connector
    from vocabkit.transferred import TransferredAdapter

    check_export(form, out, vision, keep_cls=keep_cls)
    if form is Export.llava and llm is None:
        raise VocabkitError("a Llava checkpoint holds the LLM, too: add --llm")
    loaded = load_connector(projector)
    if isinstance(loaded, LangBridgeAdapter):
        raise VocabkitError(f"{projector}: has no LLM's embeddings in it; `vocabkit transfer` it first")
    if isinstance(loaded, TransferredAdapter):
        loaded = fold(loaded)
    check_trained_features(form, loaded.config, keep_cls=keep_cls)
    write_export(loaded, out, form, vision, llm, keep_cls=keep_cls)
    if json:
        show_json({"file": out, "config": loaded.config})
    else:
        say(f"written: {out}")
