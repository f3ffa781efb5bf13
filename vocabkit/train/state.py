"""Saved state of a training: trained weights and the optimizer, to resume from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from vocabkit.adapter.tensors import read_torch, write_torch
from vocabkit.errors import VocabkitError

_KEYS = {"recipe", "step", "skipped", "model", "optimizer"}


@dataclass(frozen=True)
class Saved:
    """The content of a state file."""

    step: int
    """The last completed step."""
    skipped: int
    model: dict[str, Any]
    """Trained tensors."""
    optimizer: dict[str, Any]


class State:
    """State file of a training by one recipe."""

    def __init__(self, path: Path, recipe: dict[str, Any]) -> None:
        """Use the file at `path`, which may not exist yet."""
        self._path, self._recipe = path, json.dumps(recipe, sort_keys=True)

    def read(self) -> Saved | None:
        """Read the file; None if there is none. Raises VocabkitError if it is damaged or of another recipe."""
        if not self._path.exists():
            return None
        content = read_torch(self._path)
        if not (isinstance(content, dict) and content.keys() == _KEYS):
            raise VocabkitError(f"{self._path}: not the state of a training; remove it, or choose another `out`")
        if content.pop("recipe") != self._recipe:
            raise VocabkitError(
                f"{self._path}: the state of a training by another recipe; choose another `out`, or use that recipe"
            )
        return Saved(**content)

    def save(self, accelerator: Accelerator, model: nn.Module, optimizer: Any, step: int, skipped: int) -> None:
        """Write the file on the main process."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        names = trained_names(model)
        content = {
            "recipe": self._recipe,
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
            raise VocabkitError(f"{self._path}: has other tensors than this training; choose another `out`")
        set_model_state_dict(model, found.model, options=StateDictOptions(full_state_dict=True, strict=False))
        set_optimizer_state_dict(model, optimizer, found.optimizer, options=StateDictOptions(full_state_dict=True))


def trained_names(model: nn.Module) -> set[str]:
    """Names of trained parameters, without the prefixes of DDP, FSDP2 and activation checkpointing."""
    named = {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}
    return set(fsdp2_canonicalize_names(named))


def whole_tensors(module: nn.Module, *, frozen: bool = True) -> dict[str, Tensor]:
    """Parameters and buffers by name, gathered to the CPU of the main process; the others get none.

    All processes must call it.

    Args:
        frozen: include parameters that are not trained.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=not frozen)
    found = get_model_state_dict(module, options=options)
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
