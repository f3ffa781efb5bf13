"""The teacher: an LLM with the MLP projector that somebody trained for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vocabkit.adapter.config import AspectRatio, MLPConfig
from vocabkit.adapter.description import CONFIG
from vocabkit.adapter.model import MLPProjector, load_adapter
from vocabkit.adapter.partners import llm_info
from vocabkit.errors import VocabkitError
from vocabkit.files.records import optional_json
from vocabkit.llm.load import llm_table, model_folder
from vocabkit.transfer.published import aspect_ratio_of, read_mlp
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
    tensors, recorded = read_mlp(path)
    if llm is None and (path.is_file() or (path / "mm_projector.bin").is_file()):
        raise VocabkitError(
            f"{path}: a projector without its LLM: give `llm`, and `vision` if it names no vision model"
        )
    source = llm or str(path)
    table = llm_table(source)
    if tensors["linear_2.weight"].shape[0] != table.width:
        raise VocabkitError(
            f"{source}: its embeddings have width {table.width}, but the projector gives visual tokens of width "
            f"{tensors['linear_2.weight'].shape[0]}; give the LLM that it was trained with"
        )
    ratio = image_aspect_ratio or _aspect_ratio(path)
    if vision is not None:
        recorded["vision_model"] = vision
    elif optional_json(path / CONFIG).get(
        "unfreeze_mm_vision_tower"
    ):  # what it names is no longer what it was shown by
        raise VocabkitError(
            f"{path}: its vision model was trained with it (unfreeze_mm_vision_tower), and is read in the layout of "
            "transformers only: take the checkpoint converted to that (llava-hf has many), or give the vision model as "
            "`vision`"
        )
    elif recorded.get("vision_model") == str(path):  # the checkpoint's own
        layer, kept = recorded["vision_layer"], recorded["vision_keep_cls"]
        own = open_vision(str(path), layer=layer, keep_cls=kept, image_aspect_ratio=ratio)
        recorded["vision_fingerprint"] = own.info["fingerprint"]
    hidden, width = tensors["linear_1.weight"].shape
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


def _aspect_ratio(path: Path) -> AspectRatio:
    config = optional_json(path / CONFIG)
    if config.get("model_type") == "llava" and "text_config" in config:
        return "pad" if pads(path) else "square"
    ratio = aspect_ratio_of(path)
    return "square" if ratio in (None, "anyres") else ratio
