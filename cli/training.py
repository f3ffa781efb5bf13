"""train and finetune: an adapter, or an LLM with it, by a recipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson
from .show import note, say, show_json

if TYPE_CHECKING:
    from vocabkit.training.loop import Step

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
    from vocabkit.training import read_recipe

    recipe = read_recipe(path, settings)
    if stage == 1 and recipe.train_llm != "no":
        raise VocabkitError(
            f"{path}: train_llm is {recipe.train_llm}; `vocabkit train` keeps the LLM frozen, use finetune"
        )
    if stage == 2 and recipe.adapter is None:
        raise VocabkitError(f"{path}: names no adapter to go on from; add adapter = PATH, or use `vocabkit train`")
    from vocabkit.allocation import keep_freed_memory
    from vocabkit.training.run import STATE
    from vocabkit.training.run import train as run_training

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
