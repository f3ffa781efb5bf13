"""The teacher: an LLM with the MLP projector that somebody trained for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabkit.adapter.config import AspectRatio, MLPConfig
from vocabkit.adapter.description import CONFIG
from vocabkit.adapter.model import MLPProjector, load_adapter
from vocabkit.adapter.partners import llm_info
from vocabkit.errors import VocabkitError
from vocabkit.files.records import optional_json
from vocabkit.llm.load import llm_table, model_folder, read_config
from vocabkit.tokenizer.lora import is_lora
from vocabkit.transfer.published import aspect_ratio_of, check_vision, llava_config, of_transformers, read_mlp
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.transformers_model import pads


@dataclass(frozen=True, eq=False)
class Teacher:
    """A projector, and where its LLM is."""

    projector: MLPProjector
    llm: str
    """As `load_llm` takes it."""


def open_teacher(
    model: str, llm: str | None = None, vision: str | None = None, image_aspect_ratio: AspectRatio | None = None
) -> Teacher:
    """Open the projector `model`: of a Llava or LlavaNext checkpoint of transformers or in LLaVA's own layout (a folder
    or hub id), an `mm_projector.bin`, or an MLP projector of vocabkit. Of tiles, it sees the whole picture alone.

    Args:
        llm: its LLM, as `load_llm` takes it. By default the one in the checkpoint.
        vision: its vision model. By default the one that the checkpoint holds or names.
        image_aspect_ratio: how pictures become square. By default as the checkpoint says.

    Raises:
        VocabkitError: not found, damaged, another kind of projector, or an LLM that is named nowhere.
    """
    path = model_folder(model)
    if path.suffix == ".pt" or ("adapter_type" in optional_json(path / CONFIG)):
        projector = load_adapter(path)
        if not isinstance(projector, MLPProjector):
            raise VocabkitError(f"{path}: has a head over a shared vocabulary already; `vocabkit transfer` moves it")
        if llm is None:
            raise VocabkitError(f"{path}: a projector for {projector.config.llm}, without that LLM: give `llm`")
        return Teacher(projector.float(), llm)
    alone = _is_projector_alone(path)
    tensors, recorded = read_mlp(path, llm_inside=llm is None and not alone)
    if llm is None and alone:
        raise VocabkitError(
            f"{path}: a projector without its LLM: give `llm`, and `vision` if it names no vision model"
        )
    content = llava_config(path)
    if llm is None and of_transformers(content):
        _check_logits(path)
    source = llm or str(path)
    table = llm_table(source)
    if tensors["linear_2.weight"].shape[0] != table.width:
        raise VocabkitError(
            f"{source}: its embeddings have width {table.width}, but the projector gives visual tokens of width "
            f"{tensors['linear_2.weight'].shape[0]}; give the LLM that it was trained with"
        )
    ratio = image_aspect_ratio or _aspect_ratio(path, content, vision)
    if vision is not None:
        recorded["vision_model"] = vision
    else:
        check_vision(path)
    hidden, width = tensors["linear_1.weight"].shape
    if of_transformers(content):
        recorded["vision_fingerprint"] = _fingerprint_of_vision(path, width, ratio, **recorded)
    config = MLPConfig(
        width, hidden, table.width, table.vocabulary.name, **recorded, llm_info=llm_info(table),
        vision_aspect_ratio=ratio,
    )  # fmt: skip
    return Teacher(MLPProjector.from_parts(path, config, tensors, None).float(), source)


def with_fingerprint(projector: MLPProjector, fingerprint: str) -> MLPProjector:
    """Record the vision encoder that pictures are shown to it with, in place, if it records none."""
    if projector.config.vision_fingerprint is None:
        projector.config = dataclasses.replace(projector.config, vision_fingerprint=fingerprint)
    return projector


def _is_projector_alone(path: Path) -> bool:
    """Whether there is no LLM beside the projector, not even LoRA weights of one."""
    alone = any((path / name).is_file() for name in ("mm_projector.bin", "non_lora_trainables.bin"))
    return path.is_file() or (alone and not is_lora(path))


_ON_LOGITS = ("final_logit_softcapping", "lm_head_multiplier", "logit_scale", "logits_scaling")
"""Fields of an LLM's config: what it does to its logits, other than nothing (None or 1)."""


def _check_logits(path: Path) -> None:
    """Raise VocabkitError if the LLM alone says other things than in Llava, which has an output layer of its own."""
    config = read_config(path).text_config
    if changes := [name for name in _ON_LOGITS if getattr(config, name, None) not in (None, 1)]:
        raise VocabkitError(
            f"{path}: its LLM, a {config.model_type}, changes its logits ({changes[0]}), but not inside a Llava of "
            "transformers; name the LLM with `llm` to adopt the projector with it as it is alone"
        )


def _fingerprint_of_vision(
    path: Path, width: int, ratio: AspectRatio, *, vision_model: str, vision_layer: int, vision_keep_cls: bool
) -> str:
    """The fingerprint of the vision model of a checkpoint of transformers.

    Raises VocabkitError: of another width, or Llava leaves out other tokens than those before the patches.
    """
    encoder = open_vision(vision_model, layer=vision_layer, keep_cls=vision_keep_cls, image_aspect_ratio=ratio)
    if encoder.width != width:
        raise VocabkitError(
            f"{path}: its projector takes features of width {width}, but {vision_model} gives {encoder.width}; use the "
            "vision model that it was trained with"
        )
    before = encoder.model.class_tokens
    if before != 1 and not vision_keep_cls:
        raise VocabkitError(
            f"{path}: leaves out the first token of its vision model (vision_feature_select_strategy default), which "
            f"has {before or 'none'} before its patches; this can be adopted of vision models with one only"
        )
    return encoder.info["fingerprint"]


def _aspect_ratio(path: Path, content: Mapping[str, Any], vision: str | None) -> AspectRatio:
    """As the config.json of the checkpoint says. Raises VocabkitError: as its tiles are not made."""
    if content.get("model_type") == "llava" and of_transformers(content):
        return "pad" if pads(path) else "square"
    ratio = aspect_ratio_of(path)
    if ratio == "anyres" and (vision is not None or not of_transformers(content)):
        raise VocabkitError(
            f"{path}: its first tile (image_aspect_ratio anyres) is the picture squeezed into a square, which vocabkit "
            "makes of a LlavaNext checkpoint alone, with its own vision model: give that (llava-hf has many), or set "
            "`image_aspect_ratio` to pad"
        )
    return "square" if ratio in (None, "anyres") else ratio
