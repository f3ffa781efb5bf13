"""The vision model of an export: its config, the features that it gives, its weights and its image processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig

from vocabkit.adapter import MLPProjector
from vocabkit.errors import VocabkitError, quote
from vocabkit.export.models import read_config
from vocabkit.export.weights import read_weights, weight_files

_UNDER_VISION_MODEL = ("clip_vision_model", "siglip_vision_model")
"""Vision models whose weights stand under `vision_model.` in the checkpoints of the hub."""


@dataclass(frozen=True)
class Features:
    """The hidden states of a vision model that an adapter takes."""

    patches: int
    class_tokens: int
    """Tokens before the patches."""
    width: int
    """Dv."""


def read_vision_config(vision: Path) -> PreTrainedConfig:
    """The config of the vision model in a folder; of a CLIP or SigLIP, that of its vision half.

    Raises VocabkitError: no model, or one without a fixed image size and patch size.
    """
    config = read_config(vision)
    config = getattr(config, "vision_config", config)
    if not all(isinstance(getattr(config, field, None), int) for field in ("image_size", "patch_size")):
        raise VocabkitError(
            f"{vision}: a {config.model_type} has no fixed image_size and patch_size, which Llava needs"
        )
    return config


def features_of(vision: Path, config: PreTrainedConfig, layer: int, projector: MLPProjector) -> Features:
    """What the hidden states `layer` of the model look like, which `projector` takes.

    The model is run without its weights, on torch's meta device.

    Raises VocabkitError: it has no such hidden states, they are not one vector per patch, or of another width.
    """
    patches = (config.image_size // config.patch_size) ** 2
    try:
        with torch.device("meta"):
            pixels = torch.empty(1, 3, config.image_size, config.image_size)
            states = AutoModel.from_config(config)(pixel_values=pixels, output_hidden_states=True).hidden_states
    except Exception as error:  # whatever a model that is no vision transformer makes of pixels
        raise VocabkitError(
            f"{vision}: a {config.model_type} gives no hidden states for pixels ({quote(str(error), 80)})"
        ) from error
    if not -len(states) <= layer < len(states):
        raise VocabkitError(f"{vision}: has {len(states)} hidden states, but the adapter takes those of layer {layer}")
    shape = tuple(states[layer].shape)
    if len(shape) != 3 or shape[1] < patches:
        raise VocabkitError(f"{vision}: its hidden states are {shape}, expected a vector for each of {patches} patches")
    if shape[2] != projector.config.vision_width:
        raise VocabkitError(
            f"{vision}: its features have width {shape[2]}, but the adapter takes {projector.config.vision_width}; "
            "give the vision model that it was trained with"
        )
    return Features(patches, shape[1] - patches, shape[2])


def vision_tensors(vision: Path, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The weights of the vision model, named as in a Llava checkpoint of the hub; a text half and buffers are left out.

    Raises VocabkitError: no weights, or damaged ones.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(vision):
        found |= {key: tensor for key, tensor in read_weights(file).items() if tensor.is_floating_point()}
    if any(key.startswith("vision_model.") for key in found):
        found = {key.removeprefix("vision_model."): v for key, v in found.items() if key.startswith("vision_model.")}
    inner = "vision_model." if config.model_type in _UNDER_VISION_MODEL else ""
    return {f"vision_tower.{inner}{key}": tensor for key, tensor in found.items()}


def image_processor(vision: Path) -> Any:
    """The image processor in the folder. Raises VocabkitError if there is none."""
    try:
        return AutoImageProcessor.from_pretrained(vision, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise VocabkitError(f"{vision}: no image processor in it (preprocessor_config.json)") from error


def converted(tensors: Mapping[str, Tensor], dtype: torch.dtype, path: Path) -> dict[str, Tensor]:
    """`tensors` in `dtype`. Raises VocabkitError if numbers are beyond it, which `path` is to hold."""
    found = {key: tensor.detach().to(dtype).contiguous() for key, tensor in tensors.items()}
    for key, tensor in found.items():
        if not tensor.isfinite().all():
            largest = tensors[key].abs().max().item()
            raise VocabkitError(f"{path}: {quote(key)} reaches {largest:.3g}, which is beyond {dtype}")
    return found
