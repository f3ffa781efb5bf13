"""A checkpoint of `vocabkit export --as hf` in vLLM: `register_with_vllm` names it.

Vision model and adapter are those of transformers and `serving.llava`, whole on every worker; the LLM is vLLM's own.
Written for vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import AutoModel
from vllm.config import VllmConfig
from vllm.model_executor.models.llava import (
    BaseLlavaProcessingInfo,
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
)
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import ImageProcessorItems, ImageSize, MultiModalDataParser

from vocabkit.errors import VocabkitError
from vocabkit.serving.llava import Connector, VocabkitLlavaConfig, VocabkitLlavaProcessor
from vocabkit.vision.encoder import precision_of

_SIDE = 224
"""Of the picture that memory is planned with; all have the same number of visual tokens."""


class _Parser(MultiModalDataParser):  # type: ignore[misc]
    """Pictures of requests."""

    def __init__(self, processor: VocabkitLlavaProcessor, **options: Any) -> None:
        super().__init__(**options)
        self._processor = processor

    def _parse_image_data(self, data: Any) -> Any:
        """Decode files again by our own rules: vLLM's take other sizes and formats, and clip 16-bit greys to white.

        Raises VocabkitError, which the server answers with: see `VocabkitLlavaProcessor.opened`.
        """
        if data is None or self.is_embeddings(data):
            return super()._parse_image_data(data)
        is_one = isinstance(data, Image | MediaWithBytes) or getattr(data, "ndim", None) == 3
        items = [data] if is_one else list(data)
        files = [item.original_bytes if isinstance(item, MediaWithBytes) else item for item in items]
        images = self._processor.opened(files)
        return ImageProcessorItems(
            [
                MediaWithBytes(image, file) if isinstance(file, bytes) else image  # hashed by its bytes
                for image, file in zip(images, files, strict=True)
            ]
        )


class _Info(BaseLlavaProcessingInfo):  # type: ignore[misc]
    """What vLLM asks about pictures."""

    def get_hf_config(self) -> VocabkitLlavaConfig:
        config: VocabkitLlavaConfig = self.ctx.get_hf_config(VocabkitLlavaConfig)
        return config

    def get_hf_processor(self, **options: object) -> VocabkitLlavaProcessor:
        processor: VocabkitLlavaProcessor = self.ctx.get_hf_processor(VocabkitLlavaProcessor, **options)
        if processor.image_seq_length != self.get_hf_config().image_seq_length:
            raise VocabkitError(
                f"processor_config.json: image_seq_length {processor.image_seq_length}, but config.json has "
                f"{self.get_hf_config().image_seq_length}; export the adapter again"
            )
        return processor

    def get_data_parser(self) -> MultiModalDataParser:
        return _Parser(
            self.get_hf_processor(),
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        return self.get_hf_config().image_seq_length

    def get_image_size_with_most_features(self) -> ImageSize:
        return ImageSize(width=_SIDE, height=_SIDE)


class _Whole(nn.Module):
    """A module whose tensors come all from the checkpoint, buffers too, and are not sharded."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all. Raises VocabkitError: some are missing, or of another shape."""
        try:
            self.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise VocabkitError(f"damaged checkpoint: {' '.join(str(error).split())[:300]}") from error
        return set(self.state_dict())


class _Tower(_Whole):
    """A vision model of transformers: pixels to the hidden states of one layer."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.model = AutoModel.from_config(config)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """See the base."""
        return super().load_weights((f"model.{name}", tensor) for name, tensor in weights)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C + P, Dv)."""
        weight = next(self.model.parameters())
        found: Mapping[str, Any] = self.model(pixel_values=pixels.to(weight), output_hidden_states=True)
        states: Tensor = found["hidden_states"][self.layer]
        return states


class _Connector(_Whole, Connector):
    """The adapter."""


@MULTIMODAL_REGISTRY.register_processor(LlavaMultiModalProcessor, info=_Info, dummy_inputs=LlavaDummyInputsBuilder)
class VocabkitLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """vLLM's Llava with an adapter in place of its projector, and any vision model."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Raises VocabkitError: settings that no adapter has, or not of these models."""
        nn.Module.__init__(self)
        config: VocabkitLlavaConfig = vllm_config.model_config.hf_config
        adapter, grid = config.parsed()
        dtype: torch.dtype = vllm_config.model_config.dtype
        self.config, self.multimodal_config = config, vllm_config.model_config.multimodal_config
        text: Any = config.text_config
        self.configure_mm_token_handling(vocab_size=text.vocab_size, mm_token_ids=[config.image_token_index])
        with self._mark_tower_model(vllm_config, "image"):
            assert isinstance(config.vision_feature_layer, int)
            tower = _Tower(config.vision_config, config.vision_feature_layer)
            self.vision_tower = tower.to(precision_of(tower, dtype)).eval()
            self.multi_modal_projector = _Connector(adapter, grid).to(dtype).eval()
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config, hf_config=text, prefix=maybe_prefix(prefix, "language_model")
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **inputs: Any) -> Any:
        """`pixel_values` (B, 3, H, W), or visual tokens as they are in `image_embeds` -> (B, N, D)."""
        if inputs.get("image_embeds") is not None:
            return inputs["image_embeds"]
        if inputs.get("pixel_values") is None:
            return []
        return self.multi_modal_projector(self.vision_tower(inputs["pixel_values"]))
