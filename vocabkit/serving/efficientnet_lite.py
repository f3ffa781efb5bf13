"""EfficientNet-Lite0 as a vision model and an image processor of transformers, for checkpoints of `serving.llava`.

The network's code is that of the PyPI package efficientnet-lite-pytorch; the weights are in the checkpoint.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_backends import PilBackend
from transformers.modeling_outputs import BaseModelOutput

from vocabkit.vision.efficientnet_lite import EfficientNetLite, patches, pixels_of, untrained
from vocabkit.vision.encoder import padded


class VocabkitEfficientNetConfig(PreTrainedConfig):
    """EfficientNet-Lite0 has no settings."""

    model_type = "vocabkit_efficientnet_lite0"
    hidden_size: int = EfficientNetLite.width
    num_hidden_layers: int = 1


class VocabkitEfficientNet(PreTrainedModel):
    """The last feature map as hidden states."""

    config_class = VocabkitEfficientNetConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012 - as transformers declares it
    _keep_in_fp32_modules_strict = ["network"]  # noqa: RUF012 - see `precision_of`

    def __init__(self, config: VocabkitEfficientNetConfig) -> None:
        """Raises VocabkitError: the package with the network is not installed."""
        super().__init__(config)
        self.network = untrained()
        self.post_init()  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> VocabkitEfficientNet:
        """Keep batch normalisation as it was trained: batches of a finetuning are too small for it."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """(B, 3, 224, 224) -> (B, 49, 1280), as the only hidden states."""
        found = patches(self.network, pixel_values.to(self.dtype))
        return BaseModelOutput(last_hidden_state=found, hidden_states=(found,))


class VocabkitEfficientNetImageProcessor(PilBackend):
    """Pictures as the network was trained on: the middle square, or padded to one, in 224 x 224 pixels."""

    model_input_names = ["pixel_values"]  # noqa: RUF012 - as transformers declares it
    do_convert_rgb = True
    do_pad = False
    size = {"height": 224, "width": 224}  # noqa: RUF012

    def _preprocess(self, images: list[np.ndarray], *_: Any, **settings: Any) -> BatchFeature:  # type: ignore[override]
        pictures = [Image.fromarray(each.transpose(1, 2, 0)) for each in images]  # (3, H, W) -> (H, W, 3)
        shown = [padded(each, EfficientNetLite.fill) if settings["do_pad"] else each for each in pictures]
        return BatchFeature(
            {"pixel_values": [pixels_of(each) for each in shown]}, tensor_type=settings["return_tensors"]
        )
