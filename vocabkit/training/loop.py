"""The loop over optimizer steps, on accelerate: one process or many, killed and resumed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader

from vocabkit.errors import VocabkitError
from vocabkit.tensor_files import read_torch, write_torch
from vocabkit.training.dataset import CaptionData, Item
from vocabkit.training.objective import Objective


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
    """Samples that could not be used so far, in this process."""


@dataclass(frozen=True)
class Settings:
    """How to run phases."""

    weight_decay: float
    warmup: float
    max_gradient_norm: float
    seed: int
    checkpoint_every: int
    workers: int


class State:
    """The file that a training goes on from."""

    def __init__(self, path: Path, recipe: dict[str, Any]) -> None:
        """The state at `path` of a training by `recipe`."""
        self.path, self._recipe = path, json.dumps(recipe, sort_keys=True, default=str)

    def save(self, accelerator: Accelerator, objective: Any, optimizer: Any, step: int) -> None:
        """Write it, by the first of all processes: what is trained, and the state of the optimizer."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        model = get_model_state_dict(objective, options=options)
        content = {
            "recipe": self._recipe,
            "step": step,
            "model": {name: tensor for name, tensor in model.items() if isinstance(tensor, Tensor)},
            "optimizer": get_optimizer_state_dict(objective, optimizer, options=options),
        }
        if accelerator.is_main_process:
            write_torch(self.path, content)

    def read(self) -> dict[str, Any] | None:
        """The content, or None if there is none yet. Raises VocabkitError: damaged, or of another recipe."""
        if not self.path.exists():
            return None
        content = read_torch(self.path)
        if not (isinstance(content, dict) and {"recipe", "step", "model", "optimizer"} <= content.keys()):
            raise VocabkitError(f"{self.path}: not the state of a training; remove it, or choose another --out")
        if content["recipe"] != self._recipe:
            raise VocabkitError(
                f"{self.path}: is the state of a training by another recipe; choose another --out, or take its own"
            )
        return content


def run(
    accelerator: Accelerator,
    objective: Objective,
    phases: list[tuple[Phase, CaptionData]],
    settings: Settings,
    state: State,
    *,
    saved: Callable[[int], None],
    progress: Callable[[Step], None],
) -> None:
    """Run `phases`, from where `state` says, which needs the same number of processes and micro-batches.

    Args:
        saved: called with the step after each save of the state, on every process.
        progress: called on the main process after each step.

    Raises VocabkitError: a loss that is not finite.
    """
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=0.0, weight_decay=settings.weight_decay)
    model, optimizer = accelerator.prepare(objective, adamw)
    found = state.read()
    if found:
        set_model_state_dict(model, found["model"], options=StateDictOptions(full_state_dict=True, strict=False))
        set_optimizer_state_dict(model, adamw, found["optimizer"], options=StateDictOptions(full_state_dict=True))
    done = found["step"] if found else 0
    total, before = sum(phase.steps for phase, _ in phases), 0
    for phase, data in phases:
        start = min(max(done - before, 0), phase.steps)
        steps = _steps(accelerator, model, optimizer, phase, data, settings, start)
        for number, measured in enumerate(steps, before + start + 1):
            if accelerator.is_main_process:
                progress(Step(phase=phase.name, step=number, steps=total, **measured))
            if number % settings.checkpoint_every == 0 or number == total:
                state.save(accelerator, model, adamw, number)
                accelerator.wait_for_everyone()
                saved(number)
        before += phase.steps


def _steps(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    phase: Phase,
    data: CaptionData,
    settings: Settings,
    start: int,
) -> Iterator[dict[str, Any]]:
    """Do the steps of a phase from `start` on, and measure each."""
    parts = len(data) // phase.steps if phase.steps else 1
    loader = DataLoader(
        data, batch_size=None, sampler=range(start * parts, len(data)), num_workers=settings.workers, pin_memory=False
    )
    items, skipped = iter(loader), 0
    model.train()
    for number in range(start, phase.steps):
        began = time.perf_counter()
        rate = learning_rate(phase, number, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(settings.seed * 1_000_003 + number)  # for dropout: the same after a resume
        micro_batches = [next(items) for _ in range(parts)]
        losses = _accumulate(accelerator, model, phase, micro_batches)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        skipped += sum(len(item.skipped) for item in micro_batches)
        captions, words = losses
        if not math.isfinite(captions + words):
            raise VocabkitError(f"the loss is not finite in step {number + 1} ({phase.name}); lower the learning rate")
        samples = sum(len(item.batch.ids) for item in micro_batches) * accelerator.num_processes
        yield {
            "caption_loss": captions if phase.caption else None,
            "word_loss": words if phase.words else None,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            "samples_per_second": samples / (time.perf_counter() - began),
            "skipped": skipped,
        }


def _accumulate(accelerator: Accelerator, model: Any, phase: Phase, items: list[Item]) -> tuple[float, float]:
    """Gradients of a step. Returns the mean caption loss per answer token and word loss per image over all processes.

    Means are over the whole step, not means of means, so that the number of processes and micro-batches changes
    nothing but rounding.
    """
    counts = torch.tensor([sum(item.batch.answer_tokens for item in items), sum(len(item.words) for item in items)])
    tokens, images = accelerator.reduce(counts.to(accelerator.device).float(), "sum").clamp_min(1).tolist()
    sums = torch.zeros(2, device=accelerator.device)
    for last, item in zip([*[False] * (len(items) - 1), True], items, strict=True):
        item = item.to(accelerator.device)
        with nullcontext() if last else accelerator.no_sync(model):
            captions, words = model(item, caption=phase.caption > 0, words=phase.words > 0)
            loss = phase.caption * captions / tokens + phase.words * words / images
            accelerator.backward(loss * accelerator.num_processes)  # what averages gradients over processes
        sums += torch.stack([captions.detach(), words.detach()])
    captions, words = (accelerator.reduce(sums, "sum") / sums.new_tensor([tokens, images])).tolist()
    return captions, words


def learning_rate(phase: Phase, step: int, warmup: float) -> float:
    """Of step number `step` (from 0) of a phase: linear warm-up, then half a cosine down to 0."""
    rising = max(1, round(warmup * phase.steps))
    if step < rising:
        return phase.learning_rate * (step + 1) / rising
    return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, phase.steps - rising)))
