"""How large an export is going to be, told from configs and headers before it is written."""

from __future__ import annotations

import dataclasses
from math import prod
from pathlib import Path
from typing import Literal

import torch

from vocabkit.adapter.config import MLPConfig
from vocabkit.adapter.model import MLPProjector
from vocabkit.llm.load import llm_source
from vocabkit.llm.model_folders import read_config
from vocabkit.llm.weight_files import read_weights, weight_files
from vocabkit.llm.write import HEAD, config_dtype
from vocabkit.tokenizer.gguf import read_tensor_table
from vocabkit.transfer.export.mmproj import gguf_tensors
from vocabkit.transfer.export.vision import vision_tensors
from vocabkit.vision.transformers_model import read_vision_config


def export_size(
    form: Literal["projector", "llava", "mmproj", "mm_projector"],
    config: MLPConfig,
    dtype: torch.dtype,
    vision: Path | None = None,
    llm: str | None = None,
) -> int:
    """Bytes of all tensors that an export writes, but for the row of a new image token.

    Args:
        config: of the projector, in `dtype` unless the LLM of a Llava checkpoint has another one.
        vision: folder of the vision model, for `llava` and `mmproj`.
        llm: as `llm_folder` takes it, for `llava`. It is downloaded if it is not there.

    Raises VocabkitError: a model that is damaged, or not there.
    """
    if form in ("llava", "mm_projector"):
        config = dataclasses.replace(config, hidden_width=config.llm_width)
    numbers = sum(map(prod, config.shapes().values()))
    if vision is None:
        return numbers * dtype.itemsize
    vision_config = read_vision_config(vision)
    if form == "mmproj":
        with torch.device("meta"):
            tensors = gguf_tensors(MLPProjector(config), vision, vision_config)
        return sum(tensor.numel() * kind.itemsize for tensor, kind in tensors.values())
    numbers += sum(tensor.numel() for tensor in vision_tensors(vision, vision_config).values())
    assert llm is not None
    source = llm_source(llm)
    if source.is_file():
        shapes = [place.shape for place in read_tensor_table(source)[1].values()]
        return (numbers + sum(map(prod, shapes))) * torch.bfloat16.itemsize
    llm_config = read_config(source)
    weights = [
        tensor
        for file in weight_files(source)
        for key, tensor in read_weights(file).items()
        if not (key == HEAD and llm_config.tie_word_embeddings)
    ]
    used = config_dtype(llm_config) or weights[0].dtype
    return numbers * used.itemsize + sum(tensor.nbytes for tensor in weights)
