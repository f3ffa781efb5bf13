"""Small adapters over a real shared vocabulary, with weights drawn at random."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vocabkit.adapter.config import AdapterConfig, Head, MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import resolve

Module = TypeVar("Module", bound=nn.Module)
ROWS, VISION, HIDDEN, WIDTH = 64, 7, 5, 6


@cache
def shared_vocabulary() -> SharedVocabulary:
    """The first 64 tokens that Qwen2 and LLaMA3 share."""
    return align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(ROWS))


def langbridge(
    head: Head = "linear", *, hidden: int = HIDDEN, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any
) -> LangBridgeAdapter:
    """An adapter trained with nothing, biases not zero."""
    config = AdapterConfig.of(
        shared_vocabulary(), llm="qwen2", vision_width=VISION, hidden_width=hidden, head=head, **options
    )
    return randomised(LangBridgeAdapter(config, shared_vocabulary()), seed).to(dtype)


def sparse_adapter(head: Head) -> LangBridgeAdapter:
    """An adapter over 64 rows of which Mistral lacks some."""
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(20_000, 20_064))
    config = dataclasses.replace(langbridge(head).config, shared_fingerprint=shared.fingerprint)
    return LangBridgeAdapter.from_parts(Path("sparse"), config, langbridge(head).state_dict(), shared)


def projector(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> MLPProjector:
    """The baseline, with a hidden width that is not the LLM's."""
    config = MLPConfig(vision_width=VISION, hidden_width=HIDDEN, llm_width=WIDTH, llm="qwen2")
    return randomised(MLPProjector(config), seed).to(dtype)


def randomised(module: Module, seed: int) -> Module:
    """`module` with random parameters, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    """The same names, dtypes and bits."""
    a, b = found.state_dict(), expected.state_dict()
    assert list(a) == list(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype
        assert torch.equal(tensor.view(torch.uint8), b[name].view(torch.uint8)), name
