"""scenes: data to train and measure with, made offline."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import DATA, AsJson, Device, ImageColumn, Split, TextColumn, check_output, grid_size, named_paths
from .show import note, note_broken, say, show, show_json, show_progress

if TYPE_CHECKING:
    from vocabkit.train.loop import Step


class SceneSplit(enum.StrEnum):
    """See `vocabkit.data.scenes`."""

    TRAIN = "train"
    RENDERING = "rendering"
    COMBINATION = "combination"
    DRAWING = "drawing"


def scenes(
    out: Annotated[Path, typer.Argument(help="New folder to write.", show_default=False)],
    train: Annotated[int, typer.Option(min=1, help="Training pictures.")] = 12_000,
    held_out: Annotated[int, typer.Option(min=1, help="Pictures in each of the three held-out splits.")] = 500,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same data.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Width and height of the pictures in pixels.")] = 224,
    only: Annotated[
        list[SceneSplit] | None,
        typer.Option(help="Draw only this split; may be repeated. [default: all four]", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Draw captioned scenes of OpenMoji drawings.

    One training split and three held-out ones: known scenes drawn anew, new combinations of known drawings, and new
    drawings. All in LLaVA's JSON format.
    """
    from vocabkit.data.scene_files import write_scenes

    wanted = [split.value for split in only or SceneSplit]
    with show_progress() as progress:
        splits = write_scenes(out, train=train, held_out=held_out, seed=seed, size=size, only=wanted, progress=progress)
    if json:
        show_json({"folder": out, "seed": seed, "size": size, "splits": splits})
        return
    for split in splits:
        kinds = f"{split.single:,} single, {split.pair:,} pair, {split.count:,} counted"
        say(f"{split.file}: {split.pictures:,} pictures ({kinds}) of {split.drawings:,} drawings")


class Stored(enum.StrEnum):
    """Dtype of stored features."""

    float16 = "float16"
    float32 = "float32"


def features(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help=f"{DATA}, with the pictures.", show_default=False)
    ],
    vision: Annotated[
        str, typer.Option(help="Vision model: a folder, a hub id, or efficientnet-lite0.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Output folder; resumes an interrupted run.", show_default=False)],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures. [default: that of each data file]", show_default=False)
    ] = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    layer: Annotated[int, typer.Option(help="Hidden states to use, numbered as in transformers.")] = -2,
    keep_cls: Annotated[bool, typer.Option("--keep-cls", help="Keep class and register tokens.")] = False,
    pool: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Pool the grid of patches, as in 4x4.", show_default=False),
    ] = None,
    dtype: Annotated[Stored, typer.Option(help="Dtype of the stored features.")] = Stored.float16,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Compute the patch features of a frozen vision model once, for training.

    An interrupted run resumes. Missing and broken pictures are counted and left out.
    """
    import torch

    from vocabkit.data.sources import Columns
    from vocabkit.llm.devices import keep_freed_memory
    from vocabkit.vision.features import FeatureOptions, cache_files

    keep_freed_memory()
    options = FeatureOptions(
        layer, keep_cls, None if pool is None else grid_size(pool), getattr(torch, dtype.value), device
    )
    columns = Columns(split, image_column)
    with show_progress() as progress:
        encoder, report = cache_files(data, vision, out, options, images=images, columns=columns, progress=progress)
    if json:
        show_json({"folder": out, "encoder": encoder, "report": report})
        return
    say(
        f"{out}: {report.pictures - report.broken:,} pictures, {encoder['tokens']} x {encoder['width']} features of "
        f"{encoder['name']} each; {report.cached:,} were there, {report.computed:,} computed"
    )
    note_broken(report.broken, report.pictures, report.first_broken)


# MERGED: train and finetune: an adapter, or an LLM with it, by a recipe.

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A TOML file; see docs/training.md.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="Folder for the result. If a training was stopped there, it goes on.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="In place of what RECIPE says; may be repeated.", show_default=False
    ),
]


def train(recipe: RecipeFile, out: Out, settings: Settings = None, json: AsJson = False) -> None:
    """Train an adapter on captions, with the LLM frozen (stage 1).

    For many GPUs or machines: accelerate launch -m vocabkit_cli train RECIPE --out DIR
    """
    _run(recipe, out, settings or [], json, stage=1)


def finetune(recipe: RecipeFile, out: Out, settings: Settings = None, json: AsJson = False) -> None:
    """Go on with an adapter on instructions, alone or together with the LLM (stage 2).

    The recipe names the adapter, which may be one that was transferred. For many GPUs or machines:
    accelerate launch -m vocabkit_cli finetune RECIPE --out DIR
    """
    _run(recipe, out, settings or [], json, stage=2)


def _run(path: Path, out: Path, settings: list[str], json: bool, *, stage: int) -> None:
    from vocabkit.errors import VocabkitError
    from vocabkit.train.recipe import read_recipe

    recipe = read_recipe(path, settings)
    if stage == 1 and recipe.train_llm != "no":
        raise VocabkitError(
            f"{path}: train_llm is {recipe.train_llm}; `vocabkit train` keeps the LLM frozen, use finetune"
        )
    if stage == 2 and recipe.adapter is None:
        raise VocabkitError(f"{path}: names no adapter to go on from; add adapter = PATH, or use `vocabkit train`")
    from vocabkit.llm.devices import keep_freed_memory
    from vocabkit.train.train import STATE
    from vocabkit.train.train import train as run_training

    keep_freed_memory()
    if _is_first_process():
        note(f"{path}: data {', '.join(recipe.data)}, LLM {recipe.llm}")
        if (out / STATE).exists():
            note(f"{out}: goes on from its last saved state")
    with _progress() as progress:
        trained = run_training(recipe, out, progress=progress)
    if not _is_first_process():
        return
    if trained.skipped:
        note(f"samples that can't be used were skipped {trained.skipped:,} times:")
        for reason in trained.first_skipped:
            note(f"  {reason}")
    if json:
        show_json(trained)
        return
    left_out = f"; {trained.left_out:,} more have no features and were left out" if trained.left_out else ""
    say(f"{trained.adapter}: {trained.steps:,} steps on {trained.samples:,} samples{left_out}")
    losses = {
        "caption loss": (trained.caption_loss, "nats per token"),
        "word loss": (trained.word_loss, "nats per image"),
    }
    for name, (loss, unit) in losses.items():
        if loss is not None:
            say(f"  {name} in training {loss:.3f} {unit}, mean of the last tenth of its steps")
    if trained.llm is not None:
        say(f"{trained.llm}: the tuned LLM")


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """A bar over steps, with loss and throughput."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("loading", total=None)

        def show(step: Step) -> None:
            losses = {"loss": step.caption_loss, "words": step.word_loss}
            text = " ".join(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)
            description = f"{step.phase}: {text}, {step.samples_per_second:.1f} samples/s"
            progress.update(task, completed=step.step, total=step.steps, description=description)

        yield show


# MERGED: validate, calibrate, compare: how good the visual tokens of an adapter are, for which LLM.


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
    device: Device = "auto",
    answers: Annotated[
        bool, typer.Option("--answers", help="Also ask for names, yes or no, and counts (scenes).")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.", show_default=False)] = None,
    json: AsJson = False,
) -> None:
    """Measure caption loss on held-out data: blind, shuffled, transferred, native.

    Every figure comes with a 95% bootstrap interval.
    """
    from vocabkit.data.sources import Columns
    from vocabkit.evaluate.validate import validate_files
    from vocabkit.llm.devices import fitting_memory, keep_freed_memory

    keep_freed_memory()
    if out is not None:
        check_output(out, map(Path, data))
    adapters = named_paths(adapter, "--adapter")
    with fitting_memory(batch), show_progress() as progress:
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
    from vocabkit.report.adapters import validation_report

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
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Choose the factor on the visual tokens of a transferred adapter by caption loss.

    It is recorded in the adapter, which keeps its own where no other is certainly better. Visual
    tokens of a linear head can be far longer than the embeddings of the target.
    """
    from vocabkit.adapter.checkpoint import check_destination
    from vocabkit.data.sources import Columns
    from vocabkit.evaluate.validate import calibrate_file
    from vocabkit.llm.devices import fitting_memory, keep_freed_memory

    keep_freed_memory()
    check_destination(out, "transferred")
    with fitting_memory(batch), show_progress() as progress:
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
    from vocabkit.evaluate.compare import compare as compare_files

    found = compare_files({name: Path(path) for name, path in named_paths(results, "result").items()})
    if json:
        show_json(found)
        return
    from vocabkit.report.adapters import comparison_report

    show(comparison_report(found))
