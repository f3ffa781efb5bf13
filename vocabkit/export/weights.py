"""Reading the weights that go into an exported checkpoint, under the names that they have on the hub."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig

from vocabkit.errors import VocabkitError, quote

_UNDER_VISION_MODEL = ("clip_vision_model", "siglip_vision_model")
"""Vision models whose weights stand under `vision_model.` in the checkpoints of the hub."""


def llm_shards(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in the order of their names.

    Raises VocabkitError: none, one that the index names is missing, or names that lead out of the folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise VocabkitError(f"{index}: not an index of safetensors ({quote(repr(error), 80)})") from error
    else:
        names = ["model.safetensors"]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise VocabkitError(f"{index}: names the shard {quote(str(name))}, which is not in its folder")
        if not (folder / name).is_file():
            raise VocabkitError(f"{folder}: no {name} in it; give a folder with safetensors weights")
    return [folder / name for name in names]


def vision_tensors(folder: Path, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The weights of the vision model in `folder`, named as in a Llava checkpoint; a text tower is left out."""
    found: dict[str, Tensor] = {}
    prefix = "vision_tower.vision_model." if config.model_type in _UNDER_VISION_MODEL else "vision_tower."
    for path in llm_shards(folder):
        try:
            with safe_open(path, "pt") as file:
                keys = list(file.keys())
                inside = any(key.startswith("vision_model.") for key in keys)
                for key in keys:
                    if inside and not key.startswith("vision_model."):
                        continue
                    found[prefix + key.removeprefix("vision_model.")] = file.get_tensor(key)
        except SafetensorError as error:
            raise VocabkitError(f"{path}: damaged safetensors file ({quote(str(error), 80)})") from error
    return found
