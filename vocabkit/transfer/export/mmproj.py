"""llama.cpp projector file ("mmproj" GGUF): vision model and projector, for use with any GGUF of the LLM.

Keys and tensor names are those that llama.cpp's clip.cpp reads for LLaVA (projector type `mlp`): `mm.0` and `mm.2` are
linear_1 and linear_2. Its graph drops the class token, and applies the norm after the last layer to whatever layer it
takes, so that norm is left out. Its GELU is the tanh approximation. docs/serving.md describes what it does with the
class token of a CLIP.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.constants import LlamaFileType
from torch import Tensor
from transformers import PreTrainedConfig

from vocabkit.adapter.checkpoint import check_destination
from vocabkit.adapter.model import MLPProjector
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import replacing
from vocabkit.llm.load import quiet_transformers
from vocabkit.transfer.export.vision import adapted_states, check_features, converted, vision_tensors
from vocabkit.vision.transformers_model import image_processor, read_vision_config

_USE_GELU = {"quick_gelu": False, "gelu": True, "gelu_pytorch_tanh": True}
"""Activation of the vision model -> clip.use_gelu; without it, clip.cpp takes quick GELU."""
_DROPPED = ("post_layernorm.", "head.")


class _Whole(np.ndarray):
    """An array whose `tofile` raises when the disk is full; numpy's own does not."""

    def tofile(self, fid: Any, sep: str = "", format: str = "%s") -> None:
        fid.write(self.data)


def export_mmproj(projector: MLPProjector, vision: Path, out: Path, *, feature_layer: int = -2) -> None:
    """Write the mmproj GGUF of `vision` and `projector`: matrices in float16, the rest in float32.

    Args:
        projector: vision width -> width of the LLM; its hidden layer may have any width.
        vision: folder of a CLIP or SigLIP vision model of transformers, with its image processor.
        feature_layer: the hidden states that the adapter was trained on, without the class token, counted as in
            transformers.

    Raises:
        VocabkitError: another kind of vision model, widths or features that do not fit, values that overflow float16,
            or a file that can't be written.
    """
    check_destination(out, "mmproj")
    check_features("llama.cpp", projector.config, keep_cls=False, aspect_ratio=None)
    with quiet_transformers():
        config = read_vision_config(vision)
        if config.model_type not in ("clip_vision_model", "siglip_vision_model"):
            raise VocabkitError(
                f"{vision}: llama.cpp's LLaVA takes CLIP and SigLIP vision models, not a {config.model_type}"
            )
        if config.hidden_act not in _USE_GELU:
            raise VocabkitError(f"{vision}: llama.cpp has no activation {config.hidden_act} for vision models")
        adapted_states(vision, config, feature_layer, projector.config.vision_width)
        processor = image_processor(vision)
    tensors = {
        name: converted({name: tensor}, dtype, out if name.startswith("mm.") else vision)[name]
        for name, (tensor, dtype) in gguf_tensors(projector, vision, config).items()
    }
    with replacing(out) as temporary, closing(GGUFWriter(temporary, "clip")) as writer:
        _add_keys(writer, projector, config, feature_layer)
        writer.add_vision_image_mean(processor.image_mean)
        writer.add_vision_image_std(processor.image_std)
        for name, tensor in tensors.items():
            half = tensor.dtype == torch.float16
            kind = GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32
            writer.add_tensor(name, np.ascontiguousarray(tensor.numpy()).view(_Whole), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _add_keys(writer: GGUFWriter, projector: MLPProjector, config: PreTrainedConfig, feature_layer: int) -> None:
    layers = config.num_hidden_layers
    writer.add_type("mmproj")
    about = projector.config
    writer.add_name(f"Projector for {about.llm}")
    writer.add_description(f"For {about.llm} only, whatever other LLM has its width. Made with vocabkit.")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, about.llm)
    if about.llm_info is not None:
        writer.add_string("vocabkit.llm.text_tokens", about.llm_info.tokenizer)
        writer.add_array("vocabkit.llm.embedding_table", list(about.llm_info.table))
    if about.vision_fingerprint is not None:
        writer.add_string("vocabkit.vision.fingerprint", about.vision_fingerprint)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_clip_has_vision_encoder(True)
    writer.add_bool("clip.has_llava_projector", True)  # what llama.cpp asked for before 2025-05
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(config.image_size)
    writer.add_vision_patch_size(config.patch_size)
    writer.add_vision_embedding_length(config.hidden_size)
    writer.add_vision_feed_forward_length(config.intermediate_size)
    writer.add_vision_projection_dim(projector.config.llm_width)
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(config.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(config.layer_norm_eps)
    writer.add_vision_use_gelu(_USE_GELU[config.hidden_act])
    # the default, one layer before the last of the file, was miscounted by converters and may change
    writer.add_array("clip.vision.feature_layer", [feature_layer if feature_layer >= 0 else layers + 1 + feature_layer])


def gguf_tensors(
    projector: MLPProjector, vision: Path, config: PreTrainedConfig
) -> dict[str, tuple[Tensor, torch.dtype]]:
    """Name in the file -> tensor and its dtype there: float16 for matrices, float32 for the rest.

    Raises:
        VocabkitError: a tensor of the vision model that llama.cpp has no name for.
    """
    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, config.num_hidden_layers)
    found = {}
    for key, tensor in vision_tensors(vision, config).items():
        inner = key.removeprefix("vision_tower.vision_model.")
        if inner.startswith(_DROPPED):
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise VocabkitError(f"{vision}: llama.cpp has no place for the tensor {inner}")
        found[name] = tensor
    for number, linear in ((0, projector.linear_1), (2, projector.linear_2)):
        found |= {f"mm.{number}.weight": linear.weight, f"mm.{number}.bias": linear.bias}
    return {
        name: (tensor, torch.float16 if tensor.ndim >= 2 and name != "v.position_embd.weight" else torch.float32)
        for name, tensor in found.items()
    }
