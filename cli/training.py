"""Commands that make data, train adapters and measure them."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    DATA,
    TOKENIZER,
    AsJson,
    Aspect,
    Device,
    ImageColumn,
    Images,
    OtherWeights,
    Overwrite,
    PartOf,
    ShardsOut,
    Split,
    Template,
    TextColumn,
    Vision,
    aspect_ratio,
    check_data,
    check_device,
    check_output,
    check_shards_out,
    check_source,
    grid_size,
    kept_shards,
    named_values,
    part_of,
)
from .show import SCHEMA, Show, note, note_broken, note_left, running, say, show, show_json, show_progress

if TYPE_CHECKING:
    from vocabkit.train.loop import Step


class SceneSplit(enum.StrEnum):
    """See `vocabkit.data.scenes`."""

    TRAIN = "train"
    RENDERING = "rendering"
    COMBINATION = "combination"
    DRAWING = "drawing"
    PICTURE = "picture"


def scenes(
    out: Annotated[Path, typer.Argument(help="New folder to write.", show_default=False)],
    train: Annotated[int, typer.Option(min=1, help="Training pictures.")] = 12_000,
    held_out: Annotated[int, typer.Option(min=1, help="Pictures in each held-out split.")] = 500,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same data.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Width and height of the pictures in pixels.")] = 224,
    only: Annotated[
        list[SceneSplit] | None,
        typer.Option(help="Draw only this split; may be repeated. [default: all]", show_default=False),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of pictures of things, each with its caption in NAME.txt, such as `A red apple.`; best with "
            "transparency around them. [default: OpenMoji's drawings]",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Draw captioned scenes, from OpenMoji or cut-outs.

    One training split, and held-out ones: known scenes drawn anew, new combinations of known things, other pictures of
    them, where a folder has several, and new things. All are in LLaVA's JSON format.
    """
    from vocabkit.data.scene_files import write_scenes

    wanted = None if only is None else [split.value for split in only]
    with show_progress() as progress:
        splits = write_scenes(
            out, train=train, held_out=held_out, seed=seed, size=size, only=wanted, objects=objects, progress=progress
        )
    if json:
        show_json({"folder": out, "seed": seed, "size": size, "splits": splits})
        return
    for split in splits:
        kinds = f"{split.single:,} single, {split.pair:,} pair, {split.count:,} counted"
        shown = "drawings" if objects is None else "things"
        say(f"{split.file}: {split.pictures:,} pictures ({kinds}) of {split.drawings:,} {shown}")


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
    out: ShardsOut,
    images: Images = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    layer: Annotated[
        int, typer.Option(help="Hidden layer that the features are taken from, numbered as in transformers.")
    ] = -2,
    keep_cls: Annotated[bool, typer.Option("--keep-cls", help="Keep class and register tokens.")] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="ROWSxCOLUMNS",
            help="Pool the grid of patches to this size, such as 4x4. [default: no pooling]",
            show_default=False,
        ),
    ] = None,
    image_aspect_ratio: Annotated[
        Aspect,
        typer.Option(
            help="Pictures that are not square: `square` leaves them to the image processor, `pad` pads them."
        ),
    ] = Aspect.square,
    partition: PartOf = None,
    dtype: Annotated[Stored, typer.Option(help="Dtype of the stored features.")] = Stored.float16,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Compute the patch features of pictures once, for training.

    The vision model is frozen. An interrupted run resumes. Missing and broken pictures are counted and left out.
    """
    from vocabkit.data.sources import Columns
    from vocabkit.errors import counted
    from vocabkit.files.memory import keep_freed_memory

    grid, part = grid_size(pool), part_of(partition)
    check_device(device)
    check_data(data)
    check_shards_out(out)
    keep_freed_memory()
    columns = Columns(split, image_column)
    with show_progress(lambda: kept_shards(out)) as progress:
        import torch

        from vocabkit.vision.features import FeatureOptions, cache_files

        stored = getattr(torch, dtype.value)
        options = FeatureOptions(layer, keep_cls, grid, image_aspect_ratio.value, stored, device, part)
        encoder, report = cache_files(data, vision, out, options, images=images, columns=columns, progress=progress)
    if json:
        show_json({"folder": out, "encoder": encoder, "report": report})
        return
    there = report.pictures - report.broken - report.left
    say(
        f"{out}: {counted(there, 'picture')}, {encoder['tokens']} x {encoder['width']} features of "
        f"{encoder['name']} each; {report.cached:,} were already there, {report.computed:,} computed"
    )
    note_broken(report.broken, report.pictures, report.first_broken)
    note_left(report.left)


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A TOML file; see docs/training.md.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Output folder; resumes an interrupted run.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Replace a field of the recipe, such as batch=16; may be repeated.",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Train an adapter from a recipe, in stage 1 or 2.

    In stage 1 the LLM is frozen, in stage 2 it is usually trained as well. The recipe decides: `adapter` names an
    adapter to continue from, `train_llm` says whether to train the LLM.

    For several GPUs or machines: accelerate launch -m vocabkit_cli train RECIPE --out DIR
    """
    from vocabkit.errors import counted
    from vocabkit.files.memory import keep_freed_memory
    from vocabkit.train.recipe import STATE, read_recipe

    keep_freed_memory()
    read = read_recipe(recipe, settings or [])
    saved = out / STATE
    running.quiet = running.quiet or not _is_first_process()
    note(f"{recipe}: data {', '.join(read.data)}, LLM {read.llm}")
    if saved.exists():
        note(f"{out}: resumes from its last saved state")

    def kept() -> str:
        if saved.exists():
            return f"{out} has the last saved state; the same command resumes from it"
        return f"no state was saved yet (every {read.checkpoint_every:,} steps); the same command starts anew"

    with show_progress(kept) as progress:
        from vocabkit.train.train import train as run_training

        trained = run_training(read, out, on_step=_show_steps(progress), progress=progress)
    if not _is_first_process():
        return
    if trained.skipped:
        note(f"unusable samples were skipped {trained.skipped:,} times:")
        for reason in trained.first_skipped:
            note(f"  {reason}")
    if json:
        show_json(trained)
        return
    left_out = ""
    if trained.left_out:
        left_out = f"; {trained.left_out:,} more were left out; the first, {trained.first_left_out}"
    steps, samples = counted(trained.steps, "step"), counted(trained.samples, "sample")
    say(f"{trained.adapter}: {steps} on {samples}{left_out}")
    if trained.names is not None:
        say(f"  {trained.names_found:,} of {trained.names:,} names are rows of the shared vocabulary")
    losses = {
        "caption loss": (trained.caption_loss, "nats per token"),
        "word loss": (trained.word_loss, "nats per image"),
    }
    for name, (loss, unit) in losses.items():
        if loss is not None:
            say(f"  {name} in training {loss:.3f} {unit}, mean of the last tenth of its steps")
    if trained.llm is not None:
        say(f"{trained.llm}: the tuned LLM")


def _show_steps(progress: Show) -> Callable[[Step], None]:
    """Return what shows each step of a training."""

    def on_step(step: Step) -> None:
        losses = {"loss": step.caption_loss, "words": step.word_loss}
        text = ", ".join(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)
        progress("training", step.step, step.steps, f"{step.phase}: {text}")

    return on_step


def adopt(
    model: Annotated[
        str,
        typer.Argument(
            help="A Llava or LlavaNext checkpoint (folder or hub id), LLaVA's own checkpoint or mm_projector.bin, or "
            "an MLP projector of `vocabkit train`.",
            show_default=False,
        ),
    ],
    targets: Annotated[
        list[str],
        typer.Option(
            "--for",
            metavar="TOKENIZER",
            help=f"Another LLM that the adapter is for; may be repeated: {TOKENIZER}.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; resumes an interrupted run.", show_default=False)],
    pictures: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Pictures, captioned or not: images or a folder of them, a LLaVA file, or a dataset (folder or "
            "hub id).",
            show_default=False,
        ),
    ] = None,
    llm: Annotated[
        str | None, typer.Option(help="The LLM of a projector alone: a model folder, GGUF, catalog model or hub id.")
    ] = None,
    vision: Annotated[
        str | None,
        typer.Option(help="The projector's vision model. [default: as the checkpoint says]", show_default=False),
    ] = None,
    image_aspect_ratio: Annotated[
        Aspect | None,
        typer.Option(
            help="How pictures become square, if not as the checkpoint says.",
            show_default=False,
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Rows are words and phrases of the captions, instead of tokens.")
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Rows to keep. [default: all in the captions]", show_default=False),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            help="What to ask about each picture, with <image> in its place; may be repeated. [default: to describe "
            "it, and to name what is in it]",
            show_default=False,
        ),
    ] = None,
    template: Template = "chat",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 48,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Their features, from `vocabkit features`. Without --pictures, all that it has.", show_default=False
        ),
    ] = None,
    images: Images = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    batch: Annotated[int, typer.Option(min=1, help="Pictures that are captioned at a time.")] = 32,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A field of the training's recipe, such as epochs=2; may be repeated.",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Make a portable adapter of a LLaVA's projector.

    A projector can't be moved. With its LLM it is the teacher; no captions are needed. It says what it sees on the
    pictures, and an adapter with a softmax head learns to make the LLM say the same. That adapter can be moved to the
    LLMs of --for.

    For several GPUs or machines: accelerate launch -m vocabkit_cli adopt MODEL ...
    """
    from vocabkit.data.sources import Columns
    from vocabkit.files.memory import keep_freed_memory
    from vocabkit.llm.prompts import check_question, parse_template

    keep_freed_memory()
    check_device(device)
    form = parse_template(template)
    for each in question or ():
        check_question(each, form)
    check_source(model, "a Llava or a projector")
    check_data([] if pictures is None else [pictures])
    running.quiet = running.quiet or not _is_first_process()
    with show_progress(lambda: f"{out} keeps what is done; the same command resumes") as progress:
        from vocabkit.adopt.adopt import AdoptOptions
        from vocabkit.adopt.adopt import adopt as run_adoption

        options = AdoptOptions(
            targets=tuple(targets), words=words, top=top, llm=llm, vision=vision,
            image_aspect_ratio=aspect_ratio(image_aspect_ratio), features=features, images=images,
            columns=Columns(split, image_column), template=form, questions=tuple(question or ()),
            max_new_tokens=max_new_tokens, batch=batch, device=device, settings=tuple(settings or ()),
        )  # fmt: skip

        found = run_adoption(model, pictures, out, options, on_step=_show_steps(progress), progress=progress)
    if not _is_first_process():
        return
    if json:
        show_json(found)
        return
    trained = found.trained
    say(
        f"{trained.adapter}: {found.rows:,} rows, which are {found.covered:.1%} of what {found.llm} says with its "
        f"projector; {trained.steps:,} steps on {trained.samples:,} of its answers"
    )
    say(f"  its captions gain {found.gain_of_picture:.2f} nats per token from their own pictures")
    if trained.caption_loss is not None:
        say(f"  distance from the projector {trained.caption_loss:.3f} nats per token, mean of the last tenth of steps")


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def validate(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help=f"Held-out samples: {DATA}.", show_default=False)
    ],
    llm: Annotated[str, typer.Option(help="The LLM: a model folder, GGUF, catalog model or hub id.")],
    features: Annotated[
        Path | None,
        typer.Option(
            help="Folder of their patch features, from `vocabkit features`. [default: computed with the adapters' "
            "vision model]",
            show_default=False,
        ),
    ] = None,
    vision: Vision = None,
    other_weights: OtherWeights = False,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ADAPTER",
            help="Adapter to measure; may be repeated. Retention is relative to the ones named `native` (trained with "
            "this LLM) and `mlp` (an MLP projector trained with it).",
            show_default=False,
        ),
    ] = None,
    rival: Annotated[
        str | None,
        typer.Option(
            help="A baseline to beat: an MLP projector of the LLM that the transferred adapter was trained with, whose "
            "visual tokens are mapped to this LLM by ridge regression and by Procrustes.",
            show_default=False,
        ),
    ] = None,
    rival_llm: Annotated[str | None, typer.Option(help="The LLM of --rival.", show_default=False)] = None,
    images: Images = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    text_column: TextColumn = "text",
    template: Template = "plain",
    limit: Annotated[
        int | None,
        typer.Option(help="Samples to use, from the start of each file. [default: all]", min=1, show_default=False),
    ] = None,
    batch: Annotated[int, typer.Option(help="Samples per batch.", min=1)] = 32,
    device: Device = "auto",
    answers: Annotated[
        bool,
        typer.Option("--answers", help="Also ask what is shown, and how many; for pictures of `vocabkit scenes`."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.", show_default=False)] = None,
    overwrite: Overwrite = False,
    json: AsJson = False,
) -> None:
    """Measure the caption loss of adapters on held-out data.

    Beside the adapters, baselines and controls are measured. The controls are no picture (blind), other pictures
    (shuffled), and embedding rows in a random order. Every figure has a 95% bootstrap interval.
    """
    from vocabkit.data.sources import Columns
    from vocabkit.errors import VocabkitError
    from vocabkit.files.memory import keep_freed_memory
    from vocabkit.llm.prompts import parse_template

    keep_freed_memory()
    check_device(device)
    check_data(data)
    form = parse_template(template)
    if out is not None:
        check_output(out, map(Path, data), overwrite)
    if (rival is None) != (rival_llm is None):
        raise VocabkitError(
            "--rival (an MLP) and --rival-llm (the LLM that it was trained with) must be given together"
        )
    opponent = None if rival is None or rival_llm is None else (rival, rival_llm)
    adapters = named_values(adapter, "--adapter")
    for each in adapters.values():
        check_source(each)
    with show_progress() as progress:
        from vocabkit.evaluate.validate import FileOptions, validate_files
        from vocabkit.llm.devices import fitting_memory

        options = FileOptions(
            features=features, vision=vision, images=images, columns=Columns(split, image_column, text_column),
            template=form, limit=limit, batch=batch, device=device, other_weights=other_weights,
        )  # fmt: skip
        with fitting_memory(batch):
            results = validate_files(data, llm, adapters, options, rival=opponent, answers=answers, progress=progress)
    if out is not None:
        from vocabkit.report.as_json import write_json

        write_json(out, {"schema": SCHEMA, **results})
    if json:
        show_json(results)
        return
    from vocabkit.report.adapters import validation_report

    for name, result in results.items():
        show(validation_report(name, result))
    if out is not None:
        say(f"written: {out}")


def compare(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="BASELINE=FILE NAME=FILE...",
            help="Results of `validate --out`, in which NAME is an adapter, or of lmms-eval.",
            show_default=False,
        ),
    ],
    json: AsJson = False,
) -> None:
    """Compare results of adapters, relative to the first.

    Example: vocabkit compare native=results.json transferred=results.json
    """
    from vocabkit.evaluate.compare import compare as compare_files

    found = compare_files({name: Path(path) for name, path in named_values(results, "result").items()})
    if json:
        show_json(found)
        return
    from vocabkit.report.adapters import comparison_report

    show(comparison_report(found))
