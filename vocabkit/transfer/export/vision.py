"""Vision half of an export: whether it gives the features that the adapter was trained on, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from vocabkit.adapter.config import AdapterConfig, AspectRatio, MLPConfig
from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.weight_files import read_weights, weight_files
from vocabkit.vision.transformers_model import HiddenStates, hidden_states

LLAVA_NEXT = "a LlavaNext checkpoint"
_UNDER_VISION_MODEL = ("clip_vision_model", "siglip_vision_model")
"""Vision models whose weights are under `vision_model.` in the checkpoints of the hub."""


def check_features(
    name: str, config: AdapterConfig | MLPConfig, *, keep_cls: bool, aspect_ratio: AspectRatio | None
) -> None:
    """Raise VocabkitError if an export can't compute the features that the adapter's config records.

    Args:
        name: what the export is called in the message.
        keep_cls: whether the export gives the adapter the class token.
        aspect_ratio: what the export does with pictures that are not square; None for what the config says.
    """
    if aspect_ratio is not None and config.vision_aspect_ratio not in (None, aspect_ratio):
        raise VocabkitError(
            f"the adapter was trained with image_aspect_ratio {config.vision_aspect_ratio}, not {aspect_ratio}; leave "
            "`image_aspect_ratio` out"
        )
    if config.vision_aspect_ratio == "anyres" and name != LLAVA_NEXT:
        raise VocabkitError(
            f"the adapter was trained on tiles of pictures (image_aspect_ratio anyres), which {name} has not; export "
            "llava-next"
        )
    if config.vision_aspect_ratio != "anyres" and name == LLAVA_NEXT:
        raise VocabkitError(
            f"{name} shows pictures in tiles, but the adapter was trained with image_aspect_ratio "
            f"{config.vision_aspect_ratio or 'unknown'}; export llava"
        )
    if config.vision_pool is not None:
        rows, columns = config.vision_pool
        raise VocabkitError(
            f"the adapter takes patches pooled to {rows}x{columns}, but {name} has no pooling; export projector, or "
            "run it with vocabkit"
        )
    if config.vision_keep_cls is True and not keep_cls:
        raise VocabkitError(
            f"the adapter was trained with class tokens, which {name} leaves out; export projector, or run it with "
            "vocabkit"
        )
    if config.vision_keep_cls is False and keep_cls:
        raise VocabkitError("the adapter was trained without class tokens; leave `keep_cls` out")


def adapted_states(vision: Path, config: PreTrainedConfig, layer: int, width: int) -> HiddenStates:
    """The hidden states `layer` of the model, of the width that the adapter takes.

    Raises:
        VocabkitError: it has no such hidden states, they are not one vector per patch, or of another width.
    """
    states = hidden_states(vision, config, layer, (config.image_size, config.image_size))
    if states.width != width:
        raise VocabkitError(
            f"{vision}: its features have width {states.width}, but the adapter takes {width}; "
            "give the vision model that it was trained with"
        )
    return states


def vision_tensors(vision: Path, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The weights of the vision model, named as in a Llava checkpoint of the hub, without a text half and buffers.

    Raises:
        VocabkitError: missing or damaged weights.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(vision):
        found |= {key: tensor for key, tensor in read_weights(file).items() if tensor.is_floating_point()}
    if any(key.startswith("vision_model.") for key in found):
        found = {key.removeprefix("vision_model."): v for key, v in found.items() if key.startswith("vision_model.")}
    inner = "vision_model." if config.model_type in _UNDER_VISION_MODEL else ""
    return {f"vision_tower.{inner}{key}": tensor for key, tensor in found.items()}


def converted(tensors: Mapping[str, Tensor], dtype: torch.dtype, path: Path) -> dict[str, Tensor]:
    """`tensors` in `dtype`. Raises VocabkitError, naming `path`, if numbers overflow it."""
    found = {key: tensor.detach().to(dtype).contiguous() for key, tensor in tensors.items()}
    for key, tensor in found.items():
        if not tensor.isfinite().all():
            largest = tensors[key].abs().max().item()
            raise VocabkitError(f"{path}: {quote(key)} reaches {largest:.3g}, which overflows {dtype}")
    return found
