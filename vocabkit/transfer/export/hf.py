"""Checkpoint for transformers of a vision model, an adapter as it is, and an LLM: see `vocabkit.serving.llava`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabkit.adapter.card import hf_card
from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.spelled import counts_of
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import new_folder
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.load import model_folder, quiet_transformers
from vocabkit.llm.weight_files import read_weights, weight_files
from vocabkit.llm.write import config_dtype, generation_settings, published_config, read_llm_config
from vocabkit.serving import VocabkitLlavaConfig, VocabkitLlavaForConditionalGeneration, VocabkitLlavaProcessor
from vocabkit.serving.efficientnet_lite import VocabkitEfficientNetConfig, VocabkitEfficientNetImageProcessor
from vocabkit.transfer.export.llava import (
    IMAGE_TOKEN,
    chat_template,
    check_llm_width,
    layer_of_features,
    llm_shards,
    load_tokenizer,
    padding_processor,
    write_settings,
    write_shards,
)
from vocabkit.transfer.export.vision import converted
from vocabkit.vision.efficientnet_lite import NAME
from vocabkit.vision.encoder import VisionEncoder
from vocabkit.vision.transformers_model import image_processor, read_vision_config

_NAMES = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}
"""Prefixes of an LLM's tensors in old Llava checkpoints -> those of transformers' modules."""


def check_adapter(adapter: LangBridgeAdapter) -> None:
    """Raise VocabkitError unless the adapter can go into such a checkpoint."""
    if adapter.embeddings is None:
        raise VocabkitError("the adapter was not transferred: it has no embedding rows; run `vocabkit transfer` first")
    if adapter.config.newline_width is not None:
        raise VocabkitError("hf shows whole pictures, but the adapter was trained on tiles of them; export llava-next")


def export_hf(
    adapter: LangBridgeAdapter,
    encoder: VisionEncoder,
    llm: Path,
    out: Path,
    *,
    tuned: float = 0.0,
    progress: Progress = no_progress,
) -> int:
    """Write the checkpoint as the new folder `out`, whole or not at all.

    Tensors keep their dtypes, so that in float32 the adapter is what it was; by default, transformers loads all in the
    LLM's.

    Args:
        adapter: transferred, see `check_adapter`.
        encoder: the adapter's own.
        llm: folder of a causal language model of transformers, with its tokenizer.
        tuned: see `hf_card`.
        progress: reports the bytes of the LLM.

    Returns:
        The bytes of all tensors.

    Raises VocabkitError: an LLM whose logits Llava would not reproduce, damaged or incomplete models, numbers that
    overflow the LLM's dtype, or `out` exists.
    """
    check_adapter(adapter)
    info = encoder.info
    own = dataclasses.replace(adapter.config, vision_keep_cls=info["keep_cls"], vision_pool=info["pool"])
    with quiet_transformers():
        text_config = read_llm_config(llm)
        check_llm_width(own, llm, text_config.hidden_size)
        tokenizer = load_tokenizer(llm)
        tokenizer.tokenizer.chat_template = chat_template(tokenizer.tokenizer)
        image_tokens = own.visual_tokens(encoder.tokens)
        processor = VocabkitLlavaProcessor(
            _image_processor(encoder), tokenizer.tokenizer, image_tokens, tokenizer.tokenizer.chat_template, IMAGE_TOKEN
        )
        settings = generation_settings(llm, text_config, tokenizer.tokenizer, tokenizer.image_token_id)
        files = weight_files(llm)
        dtype = config_dtype(text_config) or next(iter(read_weights(files[0]).values())).dtype
        text_config.vocab_size = max(text_config.vocab_size, tokenizer.image_token_id + 1)
        config = VocabkitLlavaConfig(
            vision_config=_vision_config(encoder, dtype),
            text_config=text_config,
            image_token_index=tokenizer.image_token_id,
            image_seq_length=image_tokens,
            vision_feature_layer=_feature_layer(encoder),
            vision_feature_select_strategy="full",
            tie_word_embeddings=text_config.tie_word_embeddings,
            architectures=[VocabkitLlavaForConditionalGeneration.__name__],
            dtype=dtype,
            adapter=_without_llms(own).to_json(),
            vision_grid=list(encoder.model.grid),
        )
        first = _tensors(adapter) | _vision_tensors(encoder)
        converted(first, dtype, out)  # as transformers does when it loads them: raises where they overflow
        first |= _spelling(adapter)
        new_token = tokenizer.image_token_id if tokenizer.is_new else None
        shards = llm_shards(files, tied=text_config.tie_word_embeddings, new_token=new_token, progress=progress)
        content = {**config.to_diff_dict(), "text_config": published_config(llm, text_config)}
        with new_folder(out) as folder:
            write_settings(folder, content, settings, processor, hf_card(_without_llms(own), out.name, tuned))
            size = write_shards(folder, chain([first], map(_renamed, shards)), 1 + len(files))
            try:
                VocabkitLlavaForConditionalGeneration.from_pretrained(folder, device_map={"": "meta"})
            except VocabkitError as error:
                raise VocabkitError(str(error).replace(str(folder), str(llm), 1)) from error
    return size


def _without_llms(config: AdapterConfig) -> AdapterConfig:
    """The config without the records that LLMs are recognised by: the LLM is in the checkpoint, and may be tuned."""
    assert config.transfer is not None
    moved = dataclasses.replace(config.transfer, llm_info=None)
    return dataclasses.replace(config, llm_info=None, transfer=moved)


def _feature_layer(encoder: VisionEncoder) -> int:
    layer = encoder.model.layer
    if layer is None:
        return -1
    config: Any = encoder.model.module.config
    return layer_of_features(layer, config.num_hidden_layers)


def _vision_config(encoder: VisionEncoder, dtype: torch.dtype) -> Any:
    found: Any = (
        VocabkitEfficientNetConfig() if encoder.name == NAME else read_vision_config(model_folder(encoder.name))
    )
    found.dtype, found._name_or_path = dtype, ""
    return found


def _image_processor(encoder: VisionEncoder) -> Any:
    pads = encoder.info.get("image_aspect_ratio") == "pad"
    if encoder.name == NAME:
        return VocabkitEfficientNetImageProcessor(do_pad=pads)
    folder = model_folder(encoder.name)
    found: Any = padding_processor(folder) if pads else image_processor(folder)
    found.do_convert_rgb = True  # SigLIP's leaves transparent and grey pictures as they are
    return found


def _tensors(adapter: LangBridgeAdapter) -> dict[str, Tensor]:
    return {f"model.multi_modal_projector.{key}": tensor.contiguous() for key, tensor in adapter.state_dict().items()}


def _spelling(adapter: LangBridgeAdapter) -> dict[str, Tensor]:
    """What visual tokens are spelled out by: how many embeddings each row has, if several, and how often it occurs."""
    moved = adapter.config.transfer
    if moved is None or moved.spelled is None:
        return {}
    found = {"counts": counts_of(adapter.shared)}
    if moved.pieces is not None:
        found["lengths"] = torch.from_numpy(adapter.shared.spellings_for(adapter.llm).lengths)
    return {f"model.multi_modal_projector.{name}": tensor for name, tensor in found.items()}


def _vision_tensors(encoder: VisionEncoder) -> dict[str, Tensor]:
    """The weights of the vision model; 0 for those that features do not depend on and the checkpoint lacks."""
    inner = "network." if encoder.name == NAME else ""
    known: Mapping[str, Tensor] = encoder.model.weights()
    state = encoder.model.module.state_dict()
    return {
        f"model.vision_tower.{inner}{key}": tensor.contiguous() if key in known else torch.zeros_like(tensor)
        for key, tensor in state.items()
    }


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, tensor in tensors.items():
        old = next((old for old in _NAMES if key.startswith(old)), "")
        found[_NAMES.get(old, "") + key.removeprefix(old)] = tensor
    return found
