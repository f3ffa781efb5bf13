"""Loop over optimizer steps, with accelerate, in one process or many; and the saved state that it resumes from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_canonicalize_names
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader

from vocabkit.adapter.tensors import read_torch, write_torch
from vocabkit.errors import VocabkitError
from vocabkit.train.dataset import CaptionData, Item
from vocabkit.train.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    """Consecutive steps with a learning-rate schedule of their own."""

    name: str
    steps: int
    learning_rate: float
    caption: float
    """Weight of the caption loss, per answer token."""
    words: float
    """Weight of the word loss, per image."""


@dataclass(frozen=True)
class Step:
    """Measurements of one optimizer step, over all processes."""

    phase: str
    step: int
    """Counted from 1, over all phases."""
    steps: int
    """Total steps of all phases."""
    caption_loss: float | None
    """Nats per answer token; with a teacher, the KL divergence from it."""
    word_loss: float | None
    """Nats per image."""
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    skipped: int
    """How often an unusable sample has been skipped so far."""


def run(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    phases: list[tuple[Phase, CaptionData]],
    recipe: Recipe,
    saved: Saved | None,
) -> Iterator[tuple[Step, list[str]]]:
    """Take the steps of `phases` that follow `saved`, or all of them.

    Args:
        model, optimizer: as `accelerator` prepared them, with the state of `saved`.
        saved: a state of the same number of processes and micro-batches.

    Yields:
        Each step, and why this process skipped samples in it.

    Raises:
        VocabkitError: a loss or gradient that is not finite.
    """
    done, skipped = (saved.step, saved.skipped) if saved is not None else (0, 0)
    total, before = sum(phase.steps for phase, _ in phases), 0
    for phase, data in phases:
        start = min(max(done - before, 0), phase.steps)
        steps = _steps(accelerator, model, optimizer, phase, data, recipe, start)
        for number, (measured, more, reasons) in enumerate(steps, before + start + 1):
            skipped += more
            yield Step(phase=phase.name, step=number, steps=total, skipped=skipped, **measured), reasons
        before += phase.steps


def _steps(
    accelerator: Accelerator,
    model: Any,
    optimizer: Any,
    phase: Phase,
    data: CaptionData,
    recipe: Recipe,
    start: int,
) -> Iterator[tuple[dict[str, Any], int, list[str]]]:
    """Take the steps of a phase from `start`. Yields measurements, and how many samples were skipped and why."""
    parts = len(data) // phase.steps
    loader = DataLoader(data, batch_size=None, sampler=range(start * parts, len(data)), num_workers=recipe.workers)
    items = iter(loader)
    model.train()
    for number in range(start, phase.steps):
        began = time.perf_counter()
        rate = learning_rate(phase, number, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # for dropout: a resumed run draws the same numbers; a large prime keeps seeds of different recipes apart
        torch.manual_seed((recipe.seed * 1_000_003 + number) % 2**63)
        micro_batches = [next(items) for _ in range(parts)]
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
        yield measured, left_out, [reason for item in micro_batches for reason in item.skipped]


def _accumulate(accelerator: Accelerator, model: Any, phase: Phase, items: list[Item]) -> tuple[float, float, int]:
    """Accumulate the gradients of a step.

    Means are over the whole step, not means of means, so that the number of processes and micro-batches changes
    only rounding.

    Returns:
        The mean caption loss per answer token, the mean word loss per image and the number of skipped samples, over all
        processes.
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
            accelerator.backward(loss * accelerator.num_processes)  # DDP divides by it
        sums += torch.stack([captions.detach(), words.detach()])
    captions, words = (accelerator.reduce(sums, "sum") / sums.new_tensor([tokens, images])).tolist()
    return captions, words, skipped


def learning_rate(phase: Phase, step: int, warmup: float) -> float:
    """Learning rate of step `step` (from 0) of a phase: linear warm-up, then half a cosine down to 0."""
    rising = max(1, round(warmup * phase.steps))
    if step < rising:
        return phase.learning_rate * (step + 1) / rising
    return phase.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, phase.steps - rising)))


_KEYS = {"recipe", "inputs", "step", "skipped", "model", "optimizer"}


@dataclass(frozen=True)
class Saved:
    """The content of a state file."""

    step: int
    """The last completed step."""
    skipped: int
    inputs: dict[str, str]
    """Digests of what the training read, by the field of the recipe that names it."""
    model: dict[str, Any]
    """Trained tensors."""
    optimizer: dict[str, Any]


class State:
    """State file of a training by one recipe."""

    def __init__(self, path: Path, recipe: dict[str, Any]) -> None:
        """Use the file at `path`, which may not exist yet."""
        self._path, self._recipe = path, json.dumps(recipe, sort_keys=True)

    def read(self) -> Saved | None:
        """Read the file; None if there is none. Raises VocabkitError: it is damaged, or of another recipe."""
        if not self._path.exists():
            return None
        content = read_torch(self._path)
        if isinstance(content, dict):
            content.setdefault("inputs", {})  # earlier versions did not record them
        if not (isinstance(content, dict) and content.keys() == _KEYS):
            raise VocabkitError(f"{self._path}: not the state of a training; remove it, or choose another `out`")
        if content.pop("recipe") != self._recipe:
            raise VocabkitError(
                f"{self._path}: the state of a training from another recipe; choose another `out`, or use that recipe"
            )
        return Saved(**content)

    def check_inputs(self, found: Saved, inputs: dict[str, str]) -> None:
        """Raise VocabkitError: the files that the recipe names are not those that the training has read so far."""
        if changed := [f"`{field}`" for field, digest in found.inputs.items() if inputs.get(field) != digest]:
            raise VocabkitError(
                f"{self._path}: what {' and '.join(changed)} of the recipe names changed since this training began; "
                "put it back, or choose another `out`"
            )

    def save(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        step: int,
        skipped: int,
        inputs: dict[str, str],
    ) -> None:
        """Write the file on the main process."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        names = trained_names(model)
        content = {
            "recipe": self._recipe,
            "inputs": inputs,
            "step": step,
            "skipped": skipped,
            "model": {name: tensor for name, tensor in whole_tensors(model, frozen=False).items() if name in names},
            "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
        }
        if accelerator.is_main_process:
            write_torch(self._path, content)

    def restore(self, found: Saved, model: nn.Module, optimizer: Any) -> None:
        """Restore trained weights and optimizer. Raises VocabkitError if `found` has other tensors."""
        if found.model.keys() != trained_names(model):
            raise VocabkitError(f"{self._path}: its tensors are not those of this training; choose another `out`")
        set_model_state_dict(model, found.model, options=StateDictOptions(full_state_dict=True, strict=False))
        set_optimizer_state_dict(model, optimizer, found.optimizer, options=StateDictOptions(full_state_dict=True))


def trained_names(model: nn.Module) -> set[str]:
    """Names of trained parameters, without the prefixes of DDP, FSDP2 and activation checkpointing."""
    named = {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}
    return set(fsdp2_canonicalize_names(named))


def whole_tensors(module: nn.Module, *, frozen: bool = True) -> dict[str, Tensor]:
    """Return parameters and buffers by name, gathered to the CPU of the main process; other processes get none.

    All processes must call it.

    Args:
        frozen: include parameters that are not trained.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=not frozen)
    found = get_model_state_dict(module, options=options)
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
