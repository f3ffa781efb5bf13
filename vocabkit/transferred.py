"""TransferredAdapter: an adapter together with the embedding rows of the LLM that it was moved to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.adapter_config import AdapterConfig
from vocabkit.errors import VocabkitError
from vocabkit.model_card import transferred_card
from vocabkit.pretrained import Pretrained
from vocabkit.shared import SharedVocabulary


@dataclass(frozen=True)
class TransferredConfig:
    """All about a TransferredAdapter but its numbers."""

    adapter: AdapterConfig
    """Of the adapter inside; its `llm` is the one that it was trained with."""
    target: str
    """The LLM that it gives visual tokens for: the name of its tokenizer's column in the shared vocabulary."""
    target_width: int
    """D."""
    source_fingerprint: str
    """Of the shared vocabulary before the transfer, which may have had more rows and fewer tokenizers."""
    embeddings: str
    """Where the target's embedding rows were read."""
    missing: str
    """What became of rows whose token the target lacks: error (there were none), drop or compose."""
    scale: float = 1.0
    """Factor on the visual tokens."""

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise VocabkitError(f"scale {self.scale}: must be a positive number")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor."""
        inner = {f"adapter.{name}": shape for name, shape in self.adapter.shapes().items()}
        return {**inner, "embeddings": (self.adapter.rows, self.target_width)}


class TransferredAdapter(Pretrained):
    """Visual tokens of the target LLM: scale * P E_target[V_shared] (Eq. 6). Needs nothing but its own checkpoint."""

    adapter_type = "transferred"
    config_class = TransferredConfig
    config: TransferredConfig
    shared: SharedVocabulary
    embeddings: Tensor
    """(V, D) the target's rows for `shared`, in the dtype of the target."""

    def __init__(self, config: TransferredConfig, shared: SharedVocabulary) -> None:
        """A module with tensors that are still to be loaded. Raises VocabkitError: `shared` is another one."""
        super().__init__()
        if shared is not None and config.target not in shared.names:
            raise VocabkitError(f"the shared vocabulary has no column of the target {config.target}")
        self.config = config
        self.adapter = LangBridgeAdapter(config.adapter, shared)
        self.shared = shared
        self.register_buffer("embeddings", torch.empty(config.adapter.rows, config.target_width))

    def forward(self, features: Tensor) -> Tensor:
        """(..., Dv) patch features -> (..., D) visual tokens in the dtype of `embeddings`."""
        tokens: Tensor = self.adapter(features, self.embeddings)
        return tokens if self.config.scale == 1.0 else tokens * self.config.scale

    def generate_model_card(self, *_: object, **__: object) -> ModelCard:
        """The README.md of a checkpoint folder."""
        return transferred_card(self.config)
