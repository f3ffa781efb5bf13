"""A complete Hugging Face Llava checkpoint of a vision model, a folded adapter and an LLM.

The folder holds what `LlavaForConditionalGeneration`, vLLM, SGLang, lmms-eval and TRL load: config, weights, processor
with chat template, generation config and model card. Tensors are named as in the checkpoints of the hub (llava-hf), which
all versions of these readers know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, LlavaConfig, PreTrainedConfig

from vocabkit.adapter import MLPProjector
from vocabkit.errors import VocabkitError, quote
from vocabkit.export.processor import build_processor, load_tokenizer
from vocabkit.export.weights import llm_shards, vision_tensors
from vocabkit.files import new_folder
from vocabkit.fold import pad_hidden
from vocabkit.model_card import llava_card

_CLASS_TOKENS = {"siglip_vision_model": 0, "siglip2_vision_model": 0}
"""Tokens beside the patches in the hidden states, where that is not one."""
_AFTER_THE_HEAD = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}
"""Fields of LLM configs that change logits after the head, which Llava's forward does not, and their neutral value."""


@dataclass(frozen=True)
class ExportedLlava:
    """What was written."""

    folder: Path
    image_token_id: int
    image_tokens: int
    """Visual tokens per image."""
    added_rows: int
    """Rows that the embedding table grew by to hold the image token."""
    padded_units: int
    """Hidden units of zero weight that the projector was padded by."""


def export_llava(
    projector: MLPProjector,
    vision: Path,
    llm: Path,
    out: Path,
    *,
    feature_layer: int = -2,
    keep_cls: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportedLlava:
    """Write the Llava checkpoint of `vision`, `projector` and `llm` as the new folder `out`, whole or not at all.

    One shard of the LLM is in memory at a time. Vision model and projector get the dtype of the LLM.

    Args:
        projector: a folded adapter or an MLP, vision width -> width of the LLM; its hidden units are padded with zeros.
        vision: folder of a vision model of transformers, with its image processor.
        llm: folder of a causal language model of transformers, with its tokenizer, in safetensors.
        feature_layer: the hidden states of the vision model that the adapter was trained on.
        keep_cls: whether these include the class token.
        progress: called with (bytes done, bytes in total) of the LLM.

    Raises:
        VocabkitError: widths that do not fit, an LLM whose logits Llava would not reproduce, weights that are no
            safetensors, `out` is there already.
    """
    text_config, vision_config = _llm_config(llm), read_vision_config(vision)
    check_vision_width(projector, vision, vision_config)
    _check_llm_width(projector, llm, text_config)
    padded = pad_hidden(projector, text_config.hidden_size)
    tokenizer, image_token_id = load_tokenizer(llm)
    added_rows = max(image_token_id + 1 - text_config.vocab_size, 0)
    text_config.vocab_size += added_rows
    class_tokens = _CLASS_TOKENS.get(vision_config.model_type, 1)
    processor = build_processor(tokenizer, vision, vision_config, class_tokens=class_tokens, keep_cls=keep_cls)
    image_tokens = (vision_config.image_size // vision_config.patch_size) ** 2 + (class_tokens if keep_cls else 0)
    dtype = text_config.dtype or torch.float32
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_token_id,
        image_seq_length=image_tokens,
        projector_hidden_act="gelu",
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        tie_word_embeddings=text_config.tie_word_embeddings,
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
    )

    with new_folder(out) as folder:
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        _generation_config(llm, text_config, tokenizer, image_token_id).save_pretrained(folder)
        (folder / "README.md").write_text(str(llava_card(projector.config, out.name)), "utf-8")
        tensors = {f"multi_modal_projector.{key}": value for key, value in padded.state_dict().items()}
        tensors |= vision_tensors(vision, vision_config)
        tensors = {key: value.detach().to(dtype).contiguous() for key, value in tensors.items()}
        _write_shards(folder, tensors, llm, added_rows, progress)
    units = padded.config.hidden_width - projector.config.hidden_width
    return ExportedLlava(out, image_token_id, image_tokens, added_rows, units)


def _write_shards(
    folder: Path, first: dict[str, Tensor], llm: Path, added_rows: int, progress: Callable[[int, int], None] | None
) -> None:
    """model-XXXXX-of-XXXXX.safetensors and their index: one shard for vision and projector, then those of the LLM."""
    sources = llm_shards(llm)
    total_files, total_bytes = 1 + len(sources), sum(path.stat().st_size for path in sources)
    index: dict[str, str] = {}
    size = done = 0
    for number in range(total_files):
        tensors = first if number == 0 else dict(_as_llava(load_file(sources[number - 1]), added_rows))
        name = f"model-{number + 1:05d}-of-{total_files:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
        done += sources[number - 1].stat().st_size if number else 0
        if progress:
            progress(done, total_bytes)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _as_llava(tensors: dict[str, Tensor], added_rows: int) -> Iterator[tuple[str, Tensor]]:
    """LLM tensors under their names in Llava; tables with a row per token grow by rows that are their mean."""
    for key, tensor in tensors.items():
        if added_rows and key in ("model.embed_tokens.weight", "lm_head.weight"):
            mean = tensor.to(torch.float32).mean(dim=0).to(tensor.dtype)  # a logit that is never the highest
            tensor = torch.cat([tensor, mean.expand(added_rows, -1)])
        yield f"language_model.{key}", tensor


def _llm_config(llm: Path) -> PreTrainedConfig:
    config = _config(llm)
    if hasattr(config, "text_config"):
        raise VocabkitError(f"{llm}: is a multimodal model already ({config.model_type}); give a plain causal LLM")
    for field, neutral in _AFTER_THE_HEAD.items():
        value = getattr(config, field, neutral)
        if value is not None and value != neutral:
            raise VocabkitError(
                f"{llm}: a {config.model_type} applies {field}={value} to its logits, which Llava does not; "
                "such an LLM can't be exported as Llava: run the adapter with vocabkit"
            )
    return config


def read_vision_config(vision: Path) -> PreTrainedConfig:
    """The config of the vision model in a folder; the vision part of a CLIP or SigLIP.

    Raises VocabkitError: no model, or one without a fixed image size, patch size and width.
    """
    config = _config(vision)
    config = getattr(config, "vision_config", config)
    if not all(isinstance(getattr(config, field, None), int) for field in ("image_size", "patch_size", "hidden_size")):
        raise VocabkitError(
            f"{vision}: a {config.model_type} has no single image_size, patch_size and hidden_size, which Llava needs"
        )
    return config


def _config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise VocabkitError(f"{folder}: no config.json in it; give the folder of a transformers model")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise VocabkitError(f"{folder}: transformers can't read its config ({quote(str(error), 120)})") from error
    return config


def check_vision_width(projector: MLPProjector, vision: Path, config: PreTrainedConfig) -> None:
    """Raises VocabkitError if `projector` does not take features of this vision model."""
    if projector.config.vision_width != config.hidden_size:
        raise VocabkitError(
            f"{vision}: its features have width {config.hidden_size}, but the adapter takes "
            f"{projector.config.vision_width}; give the vision model that it was trained with"
        )


def _check_llm_width(projector: MLPProjector, llm: Path, config: PreTrainedConfig) -> None:
    if projector.config.llm_width != config.hidden_size:
        raise VocabkitError(
            f"{llm}: has width {config.hidden_size}, but the adapter gives {projector.config.llm_width}; "
            "transfer it to this LLM first"
        )


def _generation_config(llm: Path, config: PreTrainedConfig, tokenizer: Any, image_token_id: int) -> GenerationConfig:
    """The LLM's own, with every token that ends a turn as a stop token and the image token never generated."""
    try:
        generation = GenerationConfig.from_pretrained(llm, local_files_only=True)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    stops = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    stops = [*stops, tokenizer.eos_token_id]
    generation.eos_token_id = list(dict.fromkeys(stop for stop in stops if stop is not None)) or None
    generation.suppress_tokens = [image_token_id]
    return generation
