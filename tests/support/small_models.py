"""LLMs and projectors of a few kilobytes in the layout of transformers, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    CLIPVisionModel,
    LlamaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SiglipVisionModel,
)
from vision_models import VISION, save, seeded

from vocabkit.adapter.config import MLPConfig
from vocabkit.adapter.model import MLPProjector
from vocabkit.llm.load import quiet_transformers

HIDDEN, WIDTH = 24, 48
"""Widths of the projector's hidden layer and of the LLM."""
VOCABULARY = 258
"""Ids of the small tokenizer: the bytes, <s>, </s>."""


# ---- LLMs --------------------------------------------------------------------------------------------------------


def llm(
    folder: Path,
    config: PreTrainedConfig | None = None,
    *,
    template: str | None = None,
    shard: int | str = "5GB",
    dtype: torch.dtype = torch.float32,
    bos: bool = False,
    image_token: bool = False,
) -> Path:
    """A causal LLM and its tokenizer; by default a Llama with untied head and no spare rows."""
    model = seeded(AutoModelForCausalLM.from_config, config or llama()).to(dtype)
    save(model, folder, max_shard_size=shard)
    tokenizer = byte_tokenizer(bos=bos, image_token=image_token)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def llama(**options: Any) -> LlamaConfig:
    """The config of a Llama of two layers."""
    return LlamaConfig(**small_llm() | options)


def small_llm() -> dict[str, Any]:
    """Sizes that most LLM configs know."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }


def byte_tokenizer(*, bos: bool = False, image_token: bool = False) -> PreTrainedTokenizerFast:
    """A token for each byte, `<s>` (256, put before each text if `bos`), `</s>` (257), and `<image>` (258) if asked."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", *(["<image>"] if image_token else [])]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


# ---- projector, and what comes out -------------------------------------------------------------------------------


def projector(width: int = WIDTH, hidden: int = HIDDEN, dtype: torch.dtype = torch.float32) -> MLPProjector:
    """A random projector whose visual tokens are of the size of embeddings."""
    config = MLPConfig(vision_width=VISION, hidden_width=hidden, llm_width=width, llm="small")
    module: MLPProjector = seeded(MLPProjector, config)
    return module.to(dtype).eval()


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Model and processor of an exported checkpoint."""
    with quiet_transformers():
        model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        return model.eval(), AutoProcessor.from_pretrained(folder)


def visual_tokens(vision: Path, module: torch.nn.Module, pixels: Tensor, *, layer: int = -2, first: int = 1) -> Tensor:
    """(B, 3, H, W) -> (B, P, D), our own way: hidden states of the vision model, patches only, projected."""
    with quiet_transformers(), torch.no_grad():
        family = SiglipVisionModel if "siglip" in (vision / "config.json").read_text() else CLIPVisionModel
        model: Any = family.from_pretrained(vision, dtype=pixels.dtype)
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states[layer]
        tokens: Tensor = module(states[:, first:])
        return tokens


def loaded_llm(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The LLM in `folder` alone."""
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model.eval()


def own_logits(model: Any, inputs: Any, visual: Tensor, image_token_id: int) -> Tensor:
    """(B, N, V) logits of an LLM, with the visual tokens where the image tokens stand."""
    with torch.no_grad():
        placeholder = inputs["input_ids"] == image_token_id
        embeddings = model.get_input_embeddings()(inputs["input_ids"].masked_fill(placeholder, 0))
        embeddings[placeholder] = visual.flatten(0, 1)  # (B, N, D)[M] = (M, D)
        logits: Tensor = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits
        return logits
