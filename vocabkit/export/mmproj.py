"""A llama.cpp projector file ("mmproj" GGUF): vision model and folded adapter, for use beside any GGUF of the LLM.

Keys and tensor names are those that llama.cpp's clip.cpp reads for LLaVA (projector type `mlp`): `mm.0` and `mm.2` are
linear_1 and linear_2. Without a key for it, clip.cpp takes the hidden states before the last layer and drops the class
token; the norm after the last layer is left out, since it would be applied to them. Its GELU is the tanh approximation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.constants import LlamaFileType
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedConfig

from vocabkit.adapter import MLPProjector
from vocabkit.errors import VocabkitError
from vocabkit.export.llava import check_vision_width, read_vision_config
from vocabkit.export.weights import vision_tensors
from vocabkit.files import replacing

_ACTIVATIONS = {
    "quick_gelu": (False, False),
    "gelu": (True, False),
    "gelu_pytorch_tanh": (True, False),
    "silu": (False, True),
}
"""Activation of the vision model -> clip.use_gelu, clip.use_silu; quick GELU is neither."""
_DROPPED = ("position_ids", "post_layernorm.", "head.")


def export_mmproj(projector: MLPProjector, vision: Path, out: Path, *, feature_layer: int = -2) -> None:
    """Write the mmproj GGUF of `vision` and `projector`: matrices in float16, the rest in float32.

    Args:
        projector: a folded adapter, vision width -> width of the LLM.
        vision: folder of a CLIP or SigLIP vision model of transformers, with its image processor.
        feature_layer: the hidden states that the adapter was trained on, counted as in transformers.

    Raises:
        VocabkitError: another kind of vision model, widths that do not fit, values beyond float16, or a file that can't
            be written.
    """
    config = read_vision_config(vision)
    if config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise VocabkitError(
            f"{vision}: llama.cpp's LLaVA takes CLIP and SigLIP vision models, not a {config.model_type}"
        )
    if config.hidden_act not in _ACTIVATIONS:
        raise VocabkitError(f"{vision}: llama.cpp knows no activation {config.hidden_act} in a vision model")
    check_vision_width(projector, vision, config)
    with replacing(out) as temporary:
        writer = GGUFWriter(temporary, "clip")
        _write_keys(writer, projector, vision, config, feature_layer)
        for name, tensor in _tensors(projector, vision, config):
            _add_tensor(writer, name, tensor, out)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _write_keys(
    writer: GGUFWriter, projector: MLPProjector, vision: Path, config: PreTrainedConfig, feature_layer: int
) -> None:
    processor: Any = AutoImageProcessor.from_pretrained(vision, local_files_only=True)
    use_gelu, use_silu = _ACTIVATIONS[config.hidden_act]
    layers = config.num_hidden_layers
    writer.add_type("mmproj")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_clip_has_vision_encoder(True)
    writer.add_bool("clip.has_llava_projector", True)  # what llama.cpp asked for before 2025-05
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_projection_dim(len(projector.linear_2.weight))
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    writer.add_vision_image_mean(processor.image_mean)
    writer.add_vision_image_std(processor.image_std)
    writer.add_vision_use_gelu(use_gelu)
    writer.add_vision_use_silu(use_silu)
    index = feature_layer if feature_layer >= 0 else layers + 1 + feature_layer
    if index != layers - 1:
        writer.add_array("clip.vision.feature_layer", [index])


def _tensors(projector: MLPProjector, vision: Path, config: PreTrainedConfig) -> list[tuple[str, Tensor]]:
    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, config.num_hidden_layers)
    found = []
    for key, tensor in vision_tensors(vision, config).items():
        inner = key.removeprefix("vision_tower.vision_model.")
        if inner.endswith(_DROPPED[0]) or inner.startswith(_DROPPED[1:]):
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise VocabkitError(f"{vision}: llama.cpp has no place for the tensor {inner}")
        found.append((name, tensor))
    for number, linear in ((0, projector.linear_1), (2, projector.linear_2)):
        found += [(f"mm.{number}.weight", linear.weight.detach()), (f"mm.{number}.bias", linear.bias.detach())]
    return found


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, out: Path) -> None:
    is_matrix = name.endswith(".weight") and tensor.ndim >= 2 and "position_embd" not in name
    dtype = torch.float16 if is_matrix else torch.float32
    stored = tensor.to(dtype)
    if not torch.isfinite(stored).all():
        raise VocabkitError(
            f"{out}: {name} has values beyond float16 ({tensor.abs().max().item():.3g}), as GGUF stores it"
        )
    kind = GGMLQuantizationType.F16 if is_matrix else GGMLQuantizationType.F32
    writer.add_tensor(name, np.ascontiguousarray(stored.numpy()), raw_dtype=kind)
