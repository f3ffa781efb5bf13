"""An adapter of each kind for the small world, with LLMs and vision encoders that are its own, or are not."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from small_world import World, make_world, write_llm
from vision_models import siglip

from vocabkit.adapter.config import AdapterConfig, Head
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.partners import llm_info
from vocabkit.data.llava import read_llava
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import open_target, transfer
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import cache_features


@dataclass(frozen=True)
class PartnerWorld:
    """Everything lies in `folder`, under the names below.

    Adapters: `native` for LLM `one`; `moved` to LLM `two`, and `softmax`, whose head does not fold; `projector`, folded
    for `two`. LLMs: `one` and `two`, each with `-moved` (the same files), `-weights` (other weights) and `-tokenizer`
    (other ids for the same rows). Encoders: `vision`, with `-moved`, `-weights`, `-pixels` (other preprocessing) and
    `-siglip`, all of one width, and the features of each under `features` and the same endings.
    """

    folder: Path
    small: World


LLM_ENDINGS, VISION_ENDINGS = ("weights", "tokenizer"), ("weights", "pixels", "siglip")
"""Endings of wrong partners."""


def make_partner_world(folder: Path) -> PartnerWorld:
    """Make it in `folder`."""
    small = make_world(folder / "world")
    for name, width, backwards in (("one", 24, False), ("two", 32, True)):
        shutil.copytree(small.data.parent / name, folder / name)
        shutil.copytree(folder / name, folder / f"{name}-moved")
        write_llm(folder / f"{name}-weights", width, backwards=backwards, seed=1)
        write_llm(folder / f"{name}-tokenizer", width, backwards=not backwards)
    _write_encoders(small.vision, folder)
    pictures = [picture for sample in read_llava(small.data) for picture in sample.images]
    for ending in ("", "-moved", *(f"-{ending}" for ending in VISION_ENDINGS)):
        cache_features(open_vision(str(folder / f"vision{ending}")), pictures, folder / f"features{ending}")
    _adapter(small, folder, "linear").save(folder / "native")
    two = open_target(f"two={folder / 'two'}")
    moved = transfer(_adapter(small, folder, "linear"), two)[0]
    moved.save(folder / "moved")
    fold(moved).save(folder / "projector")
    transfer(_adapter(small, folder, "softmax"), two)[0].save(folder / "softmax")
    return PartnerWorld(folder, small)


def _adapter(small: World, folder: Path, head: Head) -> LangBridgeAdapter:
    shared, vision = open_shared(small.shared), open_vision(str(folder / "vision"))
    known: dict[str, Any] = {
        "vision_width": vision.width, "hidden_width": 16, "llm": "one", "vision_layer": -2, "vision_keep_cls": False,
        "vision_model": str(folder / "vision"), "vision_fingerprint": vision.info["fingerprint"],
        "llm_info": llm_info(open_target(f"one={folder / 'one'}").table()),
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LangBridgeAdapter(AdapterConfig.of(shared, head=head, **known), shared)


def _write_encoders(vision: Path, folder: Path) -> None:
    for name in ("vision", "vision-moved", "vision-weights", "vision-pixels"):
        shutil.copytree(vision, folder / name)
    weights = folder / "vision-weights/model.safetensors"
    tensors = load_file(weights)
    save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    settings = folder / "vision-pixels/preprocessor_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "image_mean": [0.5, 0.5, 0.5]}))
    siglip(folder / "vision-siglip")
