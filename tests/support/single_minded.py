"""Adapters for the small world that turn every patch into the same token."""

from __future__ import annotations

from typing import Any

from small_world import World

from vocabkit.adapter.config import AdapterConfig, Head, MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.adapter.partners import llm_info
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.transfer.transfer import open_target
from vocabkit.vision.features import open_features

VISION = 32


def saying(world: World, letter: bytes, head: Head = "softmax") -> LangBridgeAdapter:
    """Return an adapter that turns every patch into the token `letter`."""
    shared = open_shared(world.shared)
    config = AdapterConfig.of(
        shared,
        llm="one",
        vision_width=VISION,
        hidden_width=8,
        head=head,
        vision_model=str(world.vision),
        vision_layer=-2,
        vision_fingerprint=_fingerprint(world),
        llm_info=llm_info(open_target(world.one).table()),
    )
    adapter = LangBridgeAdapter(config, shared).requires_grad_(False)
    adapter.head.weight.zero_()
    adapter.head.bias.zero_()[shared.tokens.to_pylist().index(letter)] = 1000
    return adapter


def projecting(world: World, letter: bytes) -> MLPProjector:
    """Return an MLP projector that does the same."""
    target = open_target(world.one)
    width = target.embeddings.width
    known: dict[str, Any] = {"vision_fingerprint": _fingerprint(world), "llm_info": llm_info(target.table())}
    mlp = MLPProjector(MLPConfig(VISION, 8, width, "one", str(world.vision), -2, **known)).requires_grad_(False)
    mlp.linear_2.weight.zero_()
    mlp.linear_2.bias.copy_(target.embeddings.rows([target.vocabulary.tokens.to_pylist().index(letter)])[0])
    return mlp


def _fingerprint(world: World) -> str:
    return open_features(world.features).encoder["fingerprint"]
