"""Vision transformers of transformers: config, hidden states, image processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.load import LLAVA, check_all_read, first_line, model_folder, quiet_transformers, read_config
from vocabkit.vision.tiles import Layout, Sizes, Tiles

_PREPARATION = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", "do_pad", "pad_size",
)  # fmt: skip
"""The settings of an image processor that pixels depend on."""
_AFTER_FEATURES = ("pooler.", "head.")
"""Weights after the hidden states, which some checkpoints lack."""


@dataclass(frozen=True)
class HiddenStates:
    """Shape of the hidden states that features are taken from."""

    grid: tuple[int, int]
    """Rows and columns of patches."""
    class_tokens: int
    """Class and register tokens, before the patches."""
    width: int
    """Dv."""

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]


class TransformersModel:
    """A vision model of transformers; a PatchModel."""

    def __init__(self, source: str, layer: int) -> None:
        """Load the folder or hub repository `source`. Raises VocabkitError: see `open_vision`."""
        with quiet_transformers():
            folder = model_folder(source)
            config = read_vision_config(folder)
            self._processor = image_processor(folder)
            size = pixel_size(folder, config, self._processor)
            states = hidden_states(folder, config, layer, size)
            self.module, self._absent = _load(folder, config)
        settings = self._processor.to_dict()
        self.name, self.layer = source, layer
        self.tile = config.image_size if size == (config.image_size, config.image_size) else None
        self.grid, self.class_tokens, self.width = states.grid, states.class_tokens, states.width
        mean = self._processor.image_mean if settings.get("do_normalize") else None
        self.fill = None if mean is None else (int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255))
        self.preparation = json.dumps({key: settings.get(key) for key in _PREPARATION}, sort_keys=True, default=str)

    def pixels(self, image: Image.Image) -> Tensor:
        """RGB -> (3, H, W) float32."""
        return processed(self._processor, image)

    def tiles(self, image: Image.Image, sizes: Sizes) -> Tiles:
        """RGB -> its tiles."""
        assert self.tile is not None
        processor = tile_processor(self._processor, sizes)
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return Tiles(pixels.float(), Layout.of((image.height, image.width), sizes, self.tile, self.grid))

    def states(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C + P, Dv): the hidden states of the layer."""
        assert self.layer is not None
        found: Tensor = self.module(pixel_values=pixels, output_hidden_states=True).hidden_states[self.layer]
        return found

    def weights(self) -> Mapping[str, Tensor]:
        """The weights that came from the checkpoint."""
        return {name: tensor for name, tensor in self.module.state_dict().items() if name not in self._absent}


def read_vision_config(vision: Path) -> PreTrainedConfig:
    """Read the config of the vision model in a folder; for CLIP and SigLIP, of the vision half.

    Raises VocabkitError: not a model, or one without a fixed image size and patch size.
    """
    config = read_config(vision)
    config = getattr(config, "vision_config", config)
    if config.model_type == "pixtral":  # its image sizes vary, and a batch becomes one long sequence
        raise VocabkitError(
            f"{vision}: a pixtral gives each picture another number of patches; give a vision model with a fixed "
            "number, such as a CLIP or a SigLIP"
        )
    for field in ("image_size", "patch_size"):
        size = getattr(config, field, None)
        if isinstance(size, list | tuple):
            raise VocabkitError(
                f"{vision}: a {config.model_type} with a list of sizes ({field} {list(size)}), as InternViT's; give a "
                "vision model whose image_size and patch_size are one number each"
            )
        if not isinstance(size, int):
            raise VocabkitError(f"{vision}: a {config.model_type} has no fixed image_size and patch_size")
    return config


def hidden_states(vision: Path, config: PreTrainedConfig, layer: int, size: tuple[int, int]) -> HiddenStates:
    """Return the shape of the hidden states `layer`, for pictures of `size` (height, width) in pixels.

    Runs the model without its weights, on torch's meta device.

    Raises VocabkitError: no such hidden states, or not one vector per patch.
    """
    rows, columns = (side // config.patch_size for side in size)
    try:
        with torch.device("meta"):
            pixels = torch.empty(1, 3, *size)
            states = AutoModel.from_config(config)(pixel_values=pixels, output_hidden_states=True).hidden_states
    except Exception as error:  # a model other than a vision transformer raises many kinds
        raise VocabkitError(
            f"{vision}: a {config.model_type} gives no hidden states for pixels ({quote(str(error), 80)})"
        ) from error
    if not -len(states) <= layer < len(states):
        raise VocabkitError(f"{vision}: has {len(states)} hidden states, so there is no layer {layer}")
    shape = tuple(states[layer].shape)
    if len(shape) != 3 or shape[1] < rows * columns:
        raise VocabkitError(
            f"{vision}: its hidden states are {shape}, expected a vector for each of {rows * columns} patches"
        )
    return HiddenStates((rows, columns), shape[1] - rows * columns, shape[2])


def image_processor(vision: Path) -> Any:
    """Load the image processor in the folder. Raises VocabkitError: there is none.

    Always Pillow's: torchvision's, which transformers prefers where it is installed, resizes to slightly other pixels.
    That of a Llava checkpoint does not pad, which `image_aspect_ratio` decides; that of a LlavaNext checkpoint shows
    the whole picture as its first tile, resized to a square.
    """
    processor: Any = _own_processor(vision)
    if isinstance(processor, LlavaNextImageProcessorPil):
        side = min(size for size in dict(processor.size).values() if size)
        square = {"size": {"height": side, "width": side}, "do_center_crop": False}
        return LlavaImageProcessorPil(**preprocessing(processor) | square)
    if isinstance(processor, LlavaImageProcessorPil):
        setattr(processor, "do_pad", None)  # noqa: B010 - as it is without padding
    return processor


def pads(vision: Path) -> bool:
    """Whether the image processor in the folder pads pictures to squares. Raises VocabkitError: there is none."""
    return bool(getattr(_own_processor(vision), "do_pad", False))


def _own_processor(vision: Path) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(vision, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise VocabkitError(f"{vision}: no image processor in it (preprocessor_config.json)") from error


PREPROCESSING = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
)  # fmt: skip
"""Settings of the image processors of Llava and LlavaNext."""


def preprocessing(processor: Any) -> dict[str, Any]:
    """The settings of an image processor as one of Llava or LlavaNext takes them."""
    settings = {name: getattr(processor, name, None) for name in PREPROCESSING}
    settings["do_center_crop"] = bool(settings["do_center_crop"])
    if settings["crop_size"] is None:  # token counts are taken from there
        settings["crop_size"] = settings["size"]
    return settings


def tile_processor(processor: Any, sizes: Sizes) -> LlavaNextImageProcessorPil:
    """The image processor that cuts pictures into tiles, and prepares each as `processor` does."""
    return LlavaNextImageProcessorPil(**preprocessing(processor), image_grid_pinpoints=[list(size) for size in sizes])


def pixel_size(vision: Path, config: PreTrainedConfig, processor: Any) -> tuple[int, int]:
    """Return the (height, width) in pixels of every processed picture.

    Raises VocabkitError: the size depends on the picture's proportions.
    """
    long, short = 2 * config.image_size, config.image_size
    try:
        wide, tall = (processed(processor, Image.new("RGB", size)).shape for size in ((long, short), (short, long)))
    except Exception as error:  # settings of an untrusted file raise many kinds
        raise VocabkitError(f"{vision}: its image processor fails ({first_line(error)})") from error
    if wide != tall or len(wide) != 3:
        raise VocabkitError(
            f"{vision}: its image processor makes {tuple(wide)} of a wide picture and {tuple(tall)} of a tall one, "
            "but the model needs pixels of one size; set do_center_crop"
        )
    return wide[1], wide[2]


def processed(processor: Any, image: Image.Image) -> Tensor:
    """Return (3, H, W) float32: the pixels of a picture after an image processor."""
    pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
    return pixels.float()


def _inside_llava(folder: Path) -> dict[str, Any]:
    """How the names of tensors in a Llava checkpoint become those of its vision model; nothing for other models."""
    if read_config(folder).model_type not in LLAVA:
        return {}
    return {"key_mapping": {r"^(model\.)?vision_tower\.(vision_model\.)?": ""}}


def _load(folder: Path, config: PreTrainedConfig) -> tuple[Any, frozenset[str]]:
    """Load the model, and return it with the names of weights that the folder lacks."""
    load: Any = AutoModel.from_pretrained
    try:
        module, found = load(
            folder, config=config, trust_remote_code=False, output_loading_info=True, **_inside_llava(folder)
        )
    except Exception as error:  # safetensors and transformers raise many kinds on damaged files
        raise VocabkitError(f"{folder}: transformers can't load its weights ({first_line(error)})") from error
    if getattr(config, "quantization_config", None) is None:  # else transformers has put the scales where they belong
        check_all_read(str(folder), module, found["unexpected_keys"])
    absent = frozenset(found["missing_keys"])
    if needed := sorted(key for key in absent if not key.startswith(_AFTER_FEATURES)):
        raise VocabkitError(
            f"{folder}: its weights lack {needed[0]}, one of {len(needed)} missing tensors of its vision model"
        )
    return module, absent
