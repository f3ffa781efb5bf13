"""Fold a transferred linear adapter into a two-layer projector: exact, and without V_shared at run time.

After a transfer the head's weight W3 and the embedding rows E are both constant. With g = GELU(linear_1(v)), the visual
token is scale * ((g W2.T + b2) W3.T + b3) E, so linear_2 of the projector is g -> g W2.T M + b2 M + b3 E with
M = scale * W3.T E. Nothing is approximated.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocabkit.adapter.config import AdapterConfig, MLPConfig, vision_of, why_not_foldable
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.errors import VocabkitError

BLOCK = 8192
"""Rows of V_shared that are widened at a time."""


def check_folds(head: str) -> None:
    """Raise VocabkitError if an adapter with this head does not fold."""
    if reason := why_not_foldable(head):
        raise VocabkitError(f"a {head} head does not fold: {reason}; give `features` to distil it into a projector")


@torch.no_grad()
def fold(transferred: LangBridgeAdapter, dtype: torch.dtype | None = None) -> MLPProjector:
    """Return the projector `linear_1` (Dv -> H), GELU, `linear_2` (H -> D) that computes what `transferred` does.

    Products are accumulated in float32 (in float64 for an adapter or a result of that dtype) and rounded once.

    Args:
        dtype: dtype of the result; by default that of the target's embeddings.

    Raises:
        VocabkitError: the head is not linear, the adapter was not transferred, or the result overflows `dtype`.
    """
    check_folds(transferred.config.head)
    adapter, embeddings, scale = transferred, transferred.embeddings, transferred.scale
    if embeddings is None:
        raise VocabkitError("the adapter was not transferred: it has no embedding rows to fold")
    wide = functools.reduce(torch.promote_types, (adapter.head.weight.dtype, dtype or embeddings.dtype, torch.float32))
    mixed, bias = _head_times_rows(adapter.head, embeddings, wide)  # (H, D), (D,)
    middle = adapter.linear_2
    weight = mixed.T @ middle.weight.to(wide)  # (D, H) @ (H, H) -> (D, H)
    bias = bias + middle.bias.to(wide) @ mixed  # (H,) @ (H, D) -> (D,)
    tensors = {
        "linear_1.weight": adapter.linear_1.weight,
        "linear_1.bias": adapter.linear_1.bias,
        "linear_2.weight": weight * scale,
        "linear_2.bias": bias * scale,
        **newline_of(transferred),
    }
    tensors = {key: tensor.to(dtype or embeddings.dtype, copy=True) for key, tensor in tensors.items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        advice = "fold it to float32" if scale == 1.0 else f"transfer with a `scale` smaller than {scale:g}"
        raise VocabkitError(f"the folded projector overflows {dtype or embeddings.dtype}; {advice}")
    return _projector(folded_config(transferred.config), tensors)


def folded_config(config: AdapterConfig) -> MLPConfig:
    """The config of the projector that a transferred adapter with this config folds into."""
    moved = config.transfer
    assert moved is not None
    return MLPConfig(
        vision_width=config.vision_width,
        hidden_width=config.hidden_width,
        llm_width=moved.target_width,
        llm=moved.target,
        llm_info=moved.llm_info,
        prompt=config.prompt,
        **vision_of(config),
    )


def _head_times_rows(head: nn.Linear, embeddings: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """W3.T E (H, D) and b3 E (D,), a block of rows at a time."""
    mixed = torch.zeros(head.weight.shape[1], embeddings.shape[1], dtype=dtype)
    bias = torch.zeros(embeddings.shape[1], dtype=dtype)
    for start in range(0, len(embeddings), BLOCK):
        rows = slice(start, start + BLOCK)
        block = embeddings[rows].to(dtype)
        mixed.addmm_(head.weight[rows].to(dtype).T, block)  # (H, B) @ (B, D) -> (H, D)
        bias += head.bias[rows].to(dtype) @ block  # (B,) @ (B, D) -> (D,)
    return mixed, bias


def check_padding(hidden: int, width: int, *, mlp: bool = False) -> None:
    """Raise VocabkitError if a hidden layer of that many units can't be padded to `width`.

    Args:
        mlp: it is that of an MLP projector, which is not distilled.
    """
    if hidden > width:
        other = f"train it with `hidden_width` {width}" if mlp else "give `features` to distil it"
        raise VocabkitError(
            f"the hidden layer has {hidden:,} units, more than the LLM's width {width:,}, which a stock Llava "
            f"projector can't hold; export mmproj (llama.cpp) or projector, or {other}"
        )


@torch.no_grad()
def pad_hidden(projector: MLPProjector, width: int) -> MLPProjector:
    """Pad the hidden layer of `projector` to `width` with units of zero weight: GELU(0) = 0, so nothing changes.

    Raises:
        VocabkitError: its hidden layer is wider than `width`.
    """
    hidden = len(projector.linear_1.weight)
    check_padding(hidden, width)
    if hidden == width:
        return projector
    more = width - hidden
    state = projector.state_dict()
    tensors = {
        "linear_1.weight": functional.pad(state["linear_1.weight"], (0, 0, 0, more)),  # (H, Dv) -> (width, Dv)
        "linear_1.bias": functional.pad(state["linear_1.bias"], (0, more)),
        "linear_2.weight": functional.pad(state["linear_2.weight"], (0, more)),  # (D, H) -> (D, width)
        "linear_2.bias": state["linear_2.bias"].clone(),
        **newline_of(projector),
    }
    return _projector(dataclasses.replace(projector.config, hidden_width=width), tensors)


def newline_of(adapter: LangBridgeAdapter | MLPProjector) -> dict[str, Tensor]:
    """`image_newline` by name, if there is one."""
    return {} if adapter.image_newline is None else {"image_newline": adapter.image_newline}


def _projector(config: MLPConfig, tensors: dict[str, Tensor]) -> MLPProjector:
    tensors = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    return MLPProjector.from_parts(Path(config.llm), config, tensors, None)
