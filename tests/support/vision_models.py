"""Vision models of a few kilobytes in the layout of transformers, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vocabkit.llm.load import quiet_transformers

VISION = 32
"""Width of features."""
PIXELS, PATCH = 28, 7
PATCHES = (PIXELS // PATCH) ** 2


def clip(folder: Path, *, pixels: int = PIXELS, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """A CLIP vision model with a class token, and its image processor for images of `pixels`."""
    config = CLIPVisionConfig(**_sizes() | options)
    save(seeded(CLIPVisionModel, config).to(dtype), folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
    ).save_pretrained(folder)
    return folder


def whole_clip(folder: Path) -> Path:
    """A CLIP with its text half, for `small_models.byte_tokenizer`."""
    config = CLIPConfig(vision_config=_sizes(), text_config=_text_sizes() | {"hidden_size": 16}, projection_dim=16)
    clip(folder)
    save(seeded(CLIPModel, config), folder)
    return folder


def whole_siglip(folder: Path) -> Path:
    """The same of SigLIP, whose two halves have one width."""
    config = SiglipConfig(vision_config=_sizes(), text_config=_text_sizes() | {"hidden_size": VISION})
    siglip(folder)
    save(seeded(SiglipModel, config), folder)
    return folder


def siglip(folder: Path, **options: Any) -> Path:
    """A SigLIP vision model, which has no class token."""
    save(seeded(SiglipVisionModel, SiglipVisionConfig(**_sizes() | options)), folder)
    SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)
    return folder


def registers(folder: Path) -> Path:
    """A DINOv2 with a class token and four registers before its patches."""
    clip(folder)
    config = Dinov2WithRegistersConfig(**_dino_sizes(), num_register_tokens=4)
    save(seeded(Dinov2WithRegistersModel, config), folder)
    return folder


def dinov2(folder: Path, *, pixels: int) -> Path:
    """A DINOv2 trained on images of `PIXELS`, with an image processor for images of `pixels`, as its publishers do."""
    clip(folder, pixels=pixels)
    save(seeded(Dinov2Model, Dinov2Config(**_dino_sizes())), folder)
    return folder


def vit(folder: Path) -> Path:
    """A ViT that classifies images, so without the pooler of a plain ViT."""
    clip(folder)
    save(seeded(ViTForImageClassification, ViTConfig(**_sizes())), folder)
    return folder


def _text_sizes() -> dict[str, Any]:
    ids = {"vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    return ids | {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def _dino_sizes() -> dict[str, Any]:
    return {key: value for key, value in _sizes().items() if key != "intermediate_size"}


def _sizes() -> dict[str, Any]:
    return {
        "hidden_size": VISION,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": PIXELS,
        "patch_size": PATCH,
    }


def images(count: int) -> list[Image.Image]:
    """Images of random pixels, none square."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30 + i, 45, 3), dtype=np.uint8)) for i in range(count)]


def seeded(build: Any, config: Any) -> Any:
    """`build(config)` with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(config)


def save(model: Any, folder: Path, **options: Any) -> None:
    """Write it without a word."""
    with quiet_transformers():
        model.save_pretrained(folder, **options)
