"""What mixing takes, and what it refuses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vocabkit.errors import VocabkitError, quote

Head = Literal["linear", "softmax"]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check(
    hidden: Tensor,
    weight: Tensor,
    embeddings: Tensor | None = None,
    *,
    head: str,
    bias: Tensor | None,
    temperature: float,
) -> None:
    """Raise VocabkitError on an unknown head, a wrong temperature, or tensors that do not fit each other."""
    if head not in ("linear", "softmax"):
        raise VocabkitError(f"head {quote(str(head))} is unknown; choose linear or softmax")
    if not temperature > 0 or (head == "linear" and temperature != 1.0):
        raise VocabkitError(f"temperature {temperature}: must be positive, and 1 for a linear head")
    given = {"hidden": hidden, "weight": weight, "embeddings": embeddings, "bias": bias}
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    fits = (
        hidden.ndim >= 1
        and weight.ndim == 2
        and len(weight) > 0
        and weight.shape[1] == hidden.shape[-1]
        and (embeddings is None or (embeddings.ndim == 2 and len(embeddings) == len(weight)))
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise VocabkitError(
            f"{found} do not fit; expected hidden (..., H), weight (T, H), embeddings (T, D), bias (T,), T at least 1"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise VocabkitError(
                f"{name} is {_short(tensor.dtype)}; convert it to bfloat16, float32, float64 or float16"
            )
        if tensor.device != hidden.device:
            raise VocabkitError(f"{name} is on {tensor.device}, but hidden on {hidden.device}; move them together")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
