"""LLMs inside a Llava checkpoint: whether Llava reproduces their logits, and their weights under Llava's names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_outputs import MoeModelOutputWithPast

from vocabkit.errors import VocabkitError
from vocabkit.llm.load import first_line, read_config

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""The tensors with one row per token."""
_OF_THE_FOLDER = ("_name_or_path", "auto_map", "transformers_version")
"""Entries of config.json that are about its folder."""
_BLOCK = 8192
"""Rows that are in float64 at a time."""


def read_llm_config(llm: Path) -> PreTrainedConfig:
    """Return the config of the LLM in a folder, with its architecture.

    Llava runs the LLM's body on embeddings, then a plain head. The LLM is built without weights, on the meta device, to
    check that it does no more than that.

    Raises VocabkitError: not an LLM, a quantised or multimodal one, or one whose logits Llava would not reproduce.
    """
    config = read_config(llm)
    if getattr(config, "quantization_config", None) is not None:
        raise VocabkitError(f"{llm}: its weights are quantised; give the model that they were made of, or its GGUF")
    if hasattr(config, "text_config"):
        raise VocabkitError(f"{llm}: is a multimodal model already ({config.model_type}); give a plain causal LLM")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise VocabkitError(f"{llm}: transformers can't build it as a causal LLM ({first_line(error)})") from error
    if reason := _why_not_in_llava(model):
        raise VocabkitError(
            f"{llm}: a {config.model_type} {reason}, so it can't go into a Llava checkpoint; "
            "export mmproj instead, or run the adapter with vocabkit"
        )
    config.architectures = [type(model).__name__]
    return config


def _why_not_in_llava(model: Any) -> str | None:
    head = getattr(model, "lm_head", None)
    if model.base_model_prefix != "model" or not isinstance(head, nn.Linear) or head.bias is not None:
        return "is not made of `model` and an `lm_head` without bias"
    if model.config.model_type == "falcon_h1" and model.config.embedding_multiplier != 1:
        return "multiplies the embeddings of its own tokens only"
    probe, width = 8.0, model.config.hidden_size
    output = MoeModelOutputWithPast(last_hidden_state=torch.full((1, 1, width), probe))
    plain = nn.Linear(width, 1, bias=False, device="meta")
    plain.weight = nn.Parameter(torch.eye(1, width))
    model.base_model.forward = lambda *_, **__: output
    model.set_output_embeddings(plain)
    try:
        logit = model(input_ids=torch.zeros(1, 1, dtype=torch.long)).logits.item()
    except Exception:  # it needs more than that output
        logit = None
    return None if logit == probe else "does not take its logits from its head as they are"


def published_config(llm: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """Return the published config.json, which every version of transformers reads, with the vocabulary size and the
    architecture of `config`.
    """
    content = json.loads((llm / "config.json").read_text("utf-8"))
    content |= {"vocab_size": config.vocab_size, "architectures": config.architectures}
    return {key: value for key, value in content.items() if key not in _OF_THE_FOLDER}


def config_dtype(config: PreTrainedConfig) -> torch.dtype | None:
    """Return the dtype in the config of the LLM, if any."""
    return getattr(torch, config.dtype) if isinstance(config.dtype, str) else config.dtype


def llm_tensors(tensors: Mapping[str, Tensor], *, tied: bool, new_token: int | None) -> dict[str, Tensor]:
    """Return weights of the LLM under their names in Llava.

    Args:
        tied: whether the embedding table is also the head; a head is then left out.
        new_token: the id of a token without a row of its own. It gets the mean of all rows, whose logit is never the
            highest.
    """
    found = {}
    for key, tensor in tensors.items():
        if key == HEAD and tied:
            continue
        if new_token is not None and key in (EMBEDDINGS, HEAD):
            tensor = _with_mean_row(tensor, new_token)
        found[f"language_model.{key}"] = tensor.contiguous()
    return found


def _with_mean_row(table: Tensor, row: int) -> Tensor:
    """(V, D) -> (max(V, row + 1), D): the mean of the rows before `row`, in `row` and in any gap before it."""
    known = table[:row]
    mean = torch.stack([block.sum(dim=0, dtype=torch.float64) for block in known.split(_BLOCK)]).sum(dim=0) / len(known)
    count = max(row + 1 - len(table), 1)
    return torch.cat([known, mean.to(table.dtype).expand(count, -1), table[row + 1 :]])


def generation_settings(llm: Path, config: PreTrainedConfig, tokenizer: Any, image_token_id: int) -> dict[str, Any]:
    """Return the LLM's generation_config.json with every token that ends a turn, and image tokens suppressed.

    Raises VocabkitError: that file is damaged.
    """
    file = llm / "generation_config.json"
    try:
        own = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (ValueError, OSError, RecursionError) as error:
        raise VocabkitError(f"{file}: not JSON ({first_line(error)})") from error
    own = own if isinstance(own, dict) else {}
    defaults = {key: getattr(config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = {key: value for key, value in {**defaults, **own}.items() if value is not None}
    stops = settings.get("eos_token_id", [])
    stops = [*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id]
    settings["eos_token_id"] = list(dict.fromkeys(stop for stop in stops if stop is not None)) or None
    settings.setdefault("pad_token_id", tokenizer.pad_token_id)
    settings["suppress_tokens"] = [*settings.get("suppress_tokens", []), image_token_id]
    return settings
