"""What a training left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without throughput, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def curve(folder: Path, name: str = "caption_loss") -> Tensor:
    """(steps,) of a metric; steps that do not have it are left out."""
    return torch.tensor([line[name] for line in metrics(folder) if line[name] is not None])


def weights(folder: Path) -> dict[str, Tensor]:
    """Of the adapter."""
    return load_file(folder / "adapter" / "model.safetensors")


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether both hold the same tensors."""
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())
