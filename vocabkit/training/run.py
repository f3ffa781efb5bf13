"""From a recipe to a trained adapter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs
from torch.distributed.fsdp import MixedPrecisionPolicy

from vocabkit.errors import VocabkitError, quote
from vocabkit.files import claiming, make_folder, write_text
from vocabkit.llms import load_llm
from vocabkit.lvlm import LVLM
from vocabkit.training.loop import Step, run
from vocabkit.training.objective import Objective
from vocabkit.training.outputs import Metrics, save_adapter, save_llm
from vocabkit.training.parts import open_connector, plan_phases, read_samples, to_be_trained
from vocabkit.training.recipe import Recipe
from vocabkit.training.state import State

ADAPTER, STATE, METRICS, RECIPE, LLM_FOLDER = "adapter", "state.pt", "metrics.jsonl", "recipe.json", "llm"
"""What a training writes into its folder."""
NAMED = 5
"""Samples that can't be used and are named."""


@dataclass(frozen=True)
class Trained:
    """What came out."""

    folder: Path
    adapter: Path
    llm: Path | None
    """The tuned LLM, or its LoRA weights."""
    steps: int
    samples: int
    left_out: int
    """Samples without features."""
    skipped: int
    """How often a sample that can't be used was met and passed over; the same one counts each time."""
    first_skipped: tuple[str, ...]
    """What is wrong with the first few of them that the first process met since it started, each named once."""
    caption_loss: float | None
    """Nats per answer token of the training data, mean of the last tenth of the steps that had one."""
    word_loss: float | None
    """Nats per image, likewise."""


def train(recipe: Recipe, out: Path, *, progress: Callable[[Step], None] = lambda step: None) -> Trained:
    """Train by `recipe` into the folder `out`; where a training by the same recipe was stopped there, go on with it.

    Start it with `accelerate launch` for many processes. `out` then holds `adapter/`, `metrics.jsonl` (a line per
    step), `recipe.json`, `state.pt` and, if the LLM was trained, `llm/`.

    Raises VocabkitError: parts that do not fit together, a damaged state, another recipe in `out` or a training at work
    there, a loss that is not finite.
    """
    accelerator = _accelerator(recipe, out)
    make_folder(out)
    with claiming(out) if accelerator.is_main_process else nullcontext():
        return _train(accelerator, recipe, out, progress)


def _train(accelerator: Accelerator, recipe: Recipe, out: Path, progress: Callable[[Step], None]) -> Trained:
    state = State(out / STATE, dataclasses.asdict(recipe))
    found = state.read()
    samples, images, left_out = read_samples(recipe, accelerator.device)
    keeps_bits = recipe.precision == "float32" or recipe.train_llm == "full"
    llm = load_llm(recipe.llm, torch.float32 if keeps_bits else torch.bfloat16)
    torch.manual_seed(recipe.seed)
    connector = open_connector(recipe, images, llm)
    llm = dataclasses.replace(llm, model=to_be_trained(llm.model, recipe))
    lvlm = LVLM(llm, connector)
    objective = Objective(lvlm, images, entropy=recipe.word_entropy)
    phases = plan_phases(recipe, samples, images, llm, lvlm, accelerator)
    metrics = Metrics(accelerator, out / METRICS, found.step if found else 0)
    reasons: list[str] = []
    if accelerator.is_main_process:
        write_text(out / RECIPE, json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")

    def step(measured: Step) -> None:
        metrics.add(measured)
        progress(measured)

    def before_save(number: int) -> None:
        if recipe.keep_adapters:
            save_adapter(accelerator, connector, out / f"step-{number:06d}" / ADAPTER)

    def skipped(reason: str) -> None:
        if len(reasons) < NAMED and reason not in reasons:
            reasons.append(reason)

    run(accelerator, objective, phases, recipe, state, found, before_save=before_save, progress=step, skipped=skipped)
    save_adapter(accelerator, connector, out / ADAPTER)
    tuned = None if recipe.train_llm == "no" else save_llm(accelerator, llm, recipe.llm, out / LLM_FOLDER)
    accelerator.end_training()
    return Trained(
        out,
        out / ADAPTER,
        tuned,
        steps=sum(phase.steps for phase, _ in phases),
        samples=len(samples),
        left_out=left_out,
        skipped=metrics.last.get("skipped", 0),
        first_skipped=tuple(reasons),
        caption_loss=metrics.last_loss("caption_loss"),
        word_loss=metrics.last_loss("word_loss"),
    )


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    if recipe.tracker is not None and recipe.tracker not in get_available_trackers():
        names = ", ".join(sorted(map(str, get_available_trackers()))) or "none"
        raise VocabkitError(f"tracker {quote(recipe.tracker)} is not installed; there are: {names}")
    AcceleratorState._reset_state()  # the precision of an earlier training in this process
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        log_with=recipe.tracker,
        project_dir=out if recipe.tracker else None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and (plugin.fsdp_version != 2 or plugin.cpu_ram_efficient_loading):
        raise VocabkitError(
            "FSDP needs fsdp_version: 2 and fsdp_cpu_ram_efficient_loading: false; see docs/examples/fsdp2.yaml"
        )
    if plugin is not None and recipe.precision == "bfloat16":  # accelerate's own would round the losses, too
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return accelerator
