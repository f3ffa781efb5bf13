"""Read what a training run wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without throughput, which differs between runs."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def curve(folder: Path, name: str = "caption_loss") -> Tensor:
    """Return (steps,) of a metric, leaving out steps without it."""
    return torch.tensor([line[name] for line in metrics(folder) if line[name] is not None])


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the adapter."""
    return load_file(folder / "adapter" / "model.safetensors")


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Return whether both hold the same tensors, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())
