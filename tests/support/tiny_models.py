"""Models of transformers with random weights, a few kilobytes each, saved as their publishers save theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

ROWS, WIDTH = 67, 32

_SMALL = {
    "vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_OTHER_NAMES = {
    "gpt2": {"n_embd": WIDTH, "n_layer": 1, "n_head": 4, "n_positions": 64},
    "bloom": {"n_layer": 1, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": WIDTH},
    "xglm": {"d_model": WIDTH, "ffn_dim": 48, "num_layers": 1, "attention_heads": 4},
    "mpt": {"d_model": WIDTH, "n_layers": 1, "n_heads": 4},
    "granite": {"embedding_multiplier": 12.7},
    "granitemoe": {"embedding_multiplier": 12.7, "num_local_experts": 2, "num_experts_per_tok": 1},
    "hyperclovax": {"embedding_multiplier": 12.7},
    "afmoe": {"mup_enabled": True, "num_dense_layers": 2},
    "minicpm3": {"scale_emb": 11.3, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
                 "v_head_dim": 8, "head_dim": 8, "num_key_value_heads": 4},
    "falcon_h1": {"embedding_multiplier": 5.657, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
                  "mamba_d_state": 8, "mamba_chunk_size": 8},
    "gemma3n_text": {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
                     "num_kv_shared_layers": 2, "intermediate_size": [48] * 4, "activation_sparsity_pattern": [0.0] * 4,
                     "vocab_size_per_layer_input": ROWS, "hidden_size_per_layer_input": 8, "laurel_rank": 8},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0,
                    "vocab_size_per_layer_input": ROWS, "hidden_size_per_layer_input": 8, "global_head_dim": 8},
    "deepseek_v3": {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
                    "n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1},
    "bart": {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "scale_embedding": True},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": WIDTH, "attention_window_size": 16},
}  # fmt: skip


def tiny_config(model_type: str, **options: Any) -> PreTrainedConfig:
    """A config of this family, as small as it gets."""
    return AutoConfig.for_model(model_type, **{**_SMALL, **_OTHER_NAMES.get(model_type, {}), **options})


def save_model(
    config: PreTrainedConfig,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    auto: Any = AutoModelForCausalLM,
    shard_size: str | None = None,
) -> Path:
    """Save a model with random weights in `folder`."""
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=dtype)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.02)
    model.save_pretrained(folder, **({} if shard_size is None else {"max_shard_size": shard_size}))
    return folder


def load_model(folder: Path, *, auto: Any = AutoModelForCausalLM, **options: Any) -> PreTrainedModel:
    """The whole model, as transformers loads it."""
    return auto.from_pretrained(folder, local_files_only=True, **options).eval()


def own_rows(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """(R, D): what the model itself looks up."""
    with torch.no_grad():
        return model.get_input_embeddings()(ids)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """Equal dtype, shape and every bit."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    same = found.contiguous().view(torch.uint8) == expected.contiguous().view(torch.uint8)
    assert bool(same.all()), f"{int((~same).any(dim=-1).sum())} of {len(found)} rows differ"
