"""Adapters of every kind, moved to the second LLM of the small world."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from small_adapters import randomised
from small_world import World
from vision_models import clip, dinov2, registers, siglip

from vocabkit.adapter.config import AdapterConfig, Head, Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.transfer import transfer
from vocabkit.vision.encoder import open_vision

WORDS = ("red", "green", "blue", "white", "a", "thing", "harp", "kettle", "windmill", "sauropod")
VISION = {"clip": clip, "siglip": siglip, "registers": registers, "other size": lambda at: dinov2(at, pixels=42)}


@dataclass(frozen=True)
class Kind:
    """What sets adapters apart."""

    over: Literal["tokens", "words"] = "tokens"
    head: Head = "softmax"
    visual_tokens: Spelled | Literal["mix"] = "mix"
    temperature: float = 1.0
    scale: float = 1.0
    vision: str = "clip"
    layer: int | None = None
    keep_cls: bool = False
    pool: tuple[int, int] | None = None
    ratio: Any = "square"


def moved(world: World, kind: Kind, folder: Path) -> LangBridgeAdapter:
    """An adapter of this kind as `trained` gives it, moved to LLM two."""
    adapter = trained(world, kind, folder)
    result, _ = transfer(adapter, world.two, scale=kind.scale, visual_tokens=kind.visual_tokens)
    assert dataclasses.replace(result.config, transfer=None) == adapter.config
    return result


def trained(world: World, kind: Kind, folder: Path) -> LangBridgeAdapter:
    """An adapter of this kind with random weights, which records its encoder; a new vision model goes to `folder`."""
    source = kind.vision if kind.vision not in VISION else str(VISION[kind.vision](folder / "vision"))
    layer = {} if kind.layer is None else {"layer": kind.layer}
    chosen = {"keep_cls": kind.keep_cls, "pool": kind.pool, "image_aspect_ratio": kind.ratio}
    encoder = open_vision(source, **layer, **chosen)
    shared = rows(world, kind.over)
    config = AdapterConfig.of(
        shared, llm="one", vision_width=encoder.width, hidden_width=16, head=kind.head, temperature=kind.temperature,
        vision_model=source, vision_fingerprint=encoder.info["fingerprint"], vision_layer=encoder.info["layer"],
        vision_keep_cls=kind.keep_cls, vision_pool=kind.pool, vision_aspect_ratio=kind.ratio,
    )  # fmt: skip
    adapter = randomised(LangBridgeAdapter(config, shared), 0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter *= 0.3
    return adapter


def rows(world: World, over: str) -> SharedVocabulary:
    """Rows that are bytes or words, in both LLMs."""
    if over == "tokens":
        return open_shared(world.shared)
    return align_words([resolve(llm).vocabulary for llm in (world.one, world.two)], dict.fromkeys(WORDS, 1))
