"""validate, calibrate, compare: how good the visual tokens of an adapter are, for which LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import DATA, AsJson, ImageColumn, Split, TextColumn, check_output, named_paths
from .show import count_progress, say, show, show_json


def validate(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help=f"Held-out samples: {DATA}.", show_default=False)
    ],
    llm: Annotated[str, typer.Option(help="The LLM: a model folder, a GGUF, a catalog model or a hub id.")],
    features: Annotated[Path, typer.Option(help="Their patch features, of `vocabkit features`.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ADAPTER",
            help="What to measure; may be repeated. `transferred`, `native` (trained on this LLM) and `mlp` (an MLP "
            "trained on it) have a part in retention.",
            show_default=False,
        ),
    ] = None,
    rival: Annotated[
        str | None,
        typer.Option(
            help="An MLP trained with the LLM that the transferred adapter comes from: its tokens are carried over by "
            "ridge and Procrustes maps.",
            show_default=False,
        ),
    ] = None,
    rival_llm: Annotated[
        str | None, typer.Option(help="That LLM, for its embedding table.", show_default=False)
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images in files.", show_default=False)] = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    text_column: TextColumn = "text",
    template: Annotated[str, typer.Option(help="plain, completion or chat.")] = "plain",
    limit: Annotated[
        int | None, typer.Option(help="Samples of each file, from its start.", min=1, show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="Samples at a time.", min=1)] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    answers: Annotated[
        bool, typer.Option("--answers", help="Also ask for names, yes or no, and counts (scenes).")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Measure caption loss on held-out data: blind, shuffled, transferred, native.

    Every figure comes with a 95% bootstrap interval.
    """
    from vocabkit.allocation import keep_freed_memory
    from vocabkit.data import Columns
    from vocabkit.devices import fitting_memory
    from vocabkit.evaluation.run import validate_files

    keep_freed_memory()
    if out is not None:
        check_output(out, map(Path, data))
    adapters = named_paths(adapter, "--adapter")
    with fitting_memory(batch), count_progress() as progress:
        results = validate_files(
            data, llm=llm, features=features, adapters=adapters, rival=rival, rival_llm=rival_llm, images=images,
            columns=Columns(split, image_column, text_column),
            template=template, limit=limit, batch=batch, device=device, answers=answers, progress=progress,
        )  # fmt: skip
    if out is not None:
        from vocabkit.report.as_json import write_json

        write_json(out, results)
    if json:
        show_json(results)
        return
    from vocabkit.report.validation import validation_report

    for name, result in results.items():
        show(validation_report(name, result))
    if out is not None:
        say(f"written: {out}")


def calibrate(
    adapter: Annotated[str, typer.Argument(help="What `transfer --out` wrote: folder or .pt.", show_default=False)],
    data: Annotated[
        str, typer.Argument(help="Samples to choose by, not those that are reported on.", show_default=False)
    ],
    llm: Annotated[str, typer.Option(help="The LLM that it was moved to.")],
    features: Annotated[Path, typer.Option(help="Patch features of DATA, of `vocabkit features`.")],
    out: Annotated[Path, typer.Option(help="Folder or *.pt for the adapter with the best scale.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images in files.", show_default=False)] = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    text_column: TextColumn = "text",
    template: Annotated[str, typer.Option(help="plain, completion or chat.")] = "plain",
    limit: Annotated[int, typer.Option(help="Samples, from the start of DATA.", min=1)] = 100,
    batch: Annotated[int, typer.Option(help="Samples at a time.", min=1)] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    json: AsJson = False,
) -> None:
    """Choose the factor on the visual tokens of a transferred adapter by caption loss.

    It is recorded in the adapter, which keeps its own where no other is certainly better. Visual
    tokens of a linear head can be far longer than the embeddings of the target.
    """
    from vocabkit.allocation import keep_freed_memory
    from vocabkit.data import Columns
    from vocabkit.destination import check_destination
    from vocabkit.devices import fitting_memory
    from vocabkit.evaluation.run import calibrate_file

    keep_freed_memory()
    check_destination(out, "transferred")
    with fitting_memory(batch), count_progress() as progress:
        found = calibrate_file(
            adapter, data, llm=llm, features=features, out=out, images=images,
            columns=Columns(split, image_column, text_column), template=template, limit=limit,
            batch=batch, device=device, progress=progress,
        )  # fmt: skip
    if json:
        show_json(found)
        return
    for scale, loss in found.caption_loss.items():
        say(f"  {scale:8.3g}  {loss:.3f} nats per token{'  <- best' if scale == found.best else ''}")
    if found.scale != found.best:
        gain = f"{found.gain.value:.3f} ({found.gain.low:.3f} to {found.gain.high:.3f})"
        say(f"the best gains {gain} nats per token, which may be chance, so the scale stays as it is")
    say(f"{out}: scale {found.scale:.4g} for {found.llm}, chosen on {found.samples} samples")


def compare(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="BASELINE=FILE NAME=FILE...",
            help="JSON of `validate --out`, of which NAME is the adapter that is meant, or of lmms-eval.",
            show_default=False,
        ),
    ],
    json: AsJson = False,
) -> None:
    """Show results of connectors side by side, each relative to the first."""
    from vocabkit.evaluation.comparison import compare as compare_files

    found = compare_files({name: Path(path) for name, path in named_paths(results, "result").items()})
    if json:
        show_json(found)
        return
    from vocabkit.report.comparison import comparison_report

    show(comparison_report(found))
