"""The loop over optimizer steps, on accelerate: one process or many, killed and resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from vocabkit.errors import VocabkitError
from vocabkit.train.dataset import CaptionData, Item
from vocabkit.train.objective import Objective
from vocabkit.train.recipe import Recipe
from vocabkit.train.state import Saved, State


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with its own schedule."""

    name: str
    steps: int
    learning_rate: float
    caption: float
    """Weight of the caption loss, per answer token."""
    words: float
    """Weight of the word loss, per image."""


@dataclass(frozen=True)
class Step:
    """What was measured in one optimizer step, over all processes."""

    phase: str
    step: int
    """Counted from 1, over all phases."""
    steps: int
    """Of all phases."""
    caption_loss: float | None
    """Nats per answer token."""
    word_loss: float | None
    """Nats per image."""
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    skipped: int
    """How often a sample that can't be used was met and passed over, so far."""


def run(
    accelerator: Accelerator,
    objective: Objective,
    phases: list[tuple[Phase, CaptionData]],
    recipe: Recipe,
    state: State,
    found: Saved | None,
    *,
    before_save: Callable[[int], None],
    progress: Callable[[Step], None],
    skipped: Callable[[str], None],
) -> None:
    """Run `phases`, from where `found` says, which needs the same number of processes and micro-batches.

    Args:
        before_save: called with the step before each save of the state, on every process; what it writes is there when
            a training goes on from that state.
        progress: called on the main process after each step.
        skipped: called with what is wrong with a sample that can't be used, on the process that met it.

    Raises VocabkitError: a loss or gradient that is not finite; the state is then that of an earlier step.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=0.0, weight_decay=recipe.weight_decay)
    model, optimizer = accelerator.prepare(objective, adamw)
    if found is not None:
        state.restore(found, model, adamw)
    done, left_out = (found.step, found.skipped) if found is not None else (0, 0)
    total, before = sum(phase.steps for phase, _ in phases), 0
    for phase, data in phases:
        start = min(max(done - before, 0), phase.steps)
        steps = _steps(accelerator, model, optimizer, phase, data, recipe, start, skipped)
        for number, (measured, more) in enumerate(steps, before + start + 1):
            left_out += more
            if accelerator.is_main_process:
                progress(Step(phase=phase.name, step=number, steps=total, skipped=left_out, **measured))
            if number % recipe.checkpoint_every == 0 or number == total:
                before_save(number)
                state.save(accelerator, model, adamw, number, left_out)
                accelerator.wait_for_everyone()
        before += phase.steps


def _steps(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    phase: Phase,
    data: CaptionData,
    recipe: Recipe,
    start: int,
    skipped: Callable[[str], None],
) -> Iterator[tuple[dict[str, Any], int]]:
    """Do the steps of a phase from `start` on. Yields what was measured in each, and how many samples it skipped."""
    parts = len(data) // phase.steps
    loader = DataLoader(data, batch_size=None, sampler=range(start * parts, len(data)), num_workers=recipe.workers)
    items = iter(loader)
    model.train()
    for number in range(start, phase.steps):
        began = time.perf_counter()
        rate = learning_rate(phase, number, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed((recipe.seed * 1_000_003 + number) % 2**63)  # for dropout: the same after a resume
        micro_batches = [next(items) for _ in range(parts)]
        for reason in (reason for item in micro_batches for reason in item.skipped):
            skipped(reason)
        captions, words, left_out = _accumulate(accelerator, model, phase, micro_batches)
        norm = float(accelerator.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm))
        if not math.isfinite(captions + words + norm):
            raise VocabkitError(
                f"the loss or its gradient is not finite in step {number + 1} of {phase.name}; lower the learning rate"
            )
        optimizer.step()
        optimizer.zero_grad()
        samples = sum(len(item.batch.ids) for item in micro_batches) * accelerator.num_processes
        measured = {
            "caption_loss": captions if phase.caption else None,
            "word_loss": words if phase.words else None,
            "learning_rate": rate,
            "gradient_norm": norm,
            "samples_per_second": samples / (time.perf_counter() - began),
        }
        yield measured, left_out


def _accumulate(accelerator: Accelerator, model: Any, phase: Phase, items: list[Item]) -> tuple[float, float, int]:
    """Gradients of a step. Returns the mean caption loss per answer token, the mean word loss per image and the number
    of skipped samples, over all processes.

    Means are over the whole step, not means of means, so that the number of processes and micro-batches changes
    nothing but rounding.
    """
    counts = torch.tensor(
        [
            sum(item.batch.answer_tokens for item in items),
            sum(len(item.words) for item in items),
            sum(len(item.skipped) for item in items),
        ],
        device=accelerator.device,
    )
    tokens, images, skipped = accelerator.reduce(counts, "sum").tolist()
    tokens, images = max(tokens, 1), max(images, 1)
    sums = torch.zeros(2, device=accelerator.device)
    for last, item in zip([*[False] * (len(items) - 1), True], items, strict=True):
        item = item.to(accelerator.device)
        with nullcontext() if last else accelerator.no_sync(model):
            captions, words = model(item, caption=phase.caption > 0, words=phase.words > 0)
            loss = phase.caption * captions / tokens + phase.words * words / images
            accelerator.backward(loss * accelerator.num_processes)  # what averages gradients over processes
        sums += torch.stack([captions.detach(), words.detach()])
    captions, words = (accelerator.reduce(sums, "sum") / sums.new_tensor([tokens, images])).tolist()
    return captions, words, skipped


def learning_rate(phase: Phase, step: int, warmup: float) -> float:
    """Of step number `step` (from 0) of a phase: linear warm-up, then half a cosine down to 0."""
    rising = max(1, round(warmup * phase.steps))
    if step < rising:
        return phase.learning_rate * (step + 1) / rising
    return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, phase.steps - rising)))
