"""What an adapter is, but for its numbers: plain data, stored as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vocabkit.errors import VocabkitError, quote
from vocabkit.mixing import Head
from vocabkit.shared import SharedVocabulary


@dataclass(frozen=True)
class AdapterConfig:
    """All about a LangBridgeAdapter but its numbers."""

    vision_width: int
    """Dv."""
    hidden_width: int
    """H."""
    rows: int
    """V."""
    llm: str
    """The LLM that it was trained with: the name of its tokenizer's column in the shared vocabulary."""
    shared_fingerprint: str
    """Of the shared vocabulary whose rows the head's rows are."""
    head: Head = "linear"
    temperature: float = 1.0
    """Divides the logits of a softmax head."""
    vision_model: str | None = None
    """Where the features came from, for people: a hub id or a name."""
    vision_layer: int | None = None
    """Index into the vision model's hidden states, -2 as published."""
    vision_keep_cls: bool | None = None
    """Whether features of class and register tokens were among them; None if unknown, and then so is `vision_pool`."""
    vision_pool: tuple[int, int] | None = None
    """Rows and columns that the grid of patches was pooled to; None if it was not."""

    def __post_init__(self) -> None:
        _check_sizes(vision_width=self.vision_width, hidden_width=self.hidden_width, rows=self.rows)
        if self.head not in ("linear", "softmax"):
            raise VocabkitError(f"head {quote(str(self.head))} is unknown; choose linear or softmax")
        if not 0 < self.temperature < math.inf or (self.head == "linear" and self.temperature != 1.0):
            raise VocabkitError(f"temperature {self.temperature}: must be positive, and 1 for a linear head")

    @classmethod
    def of(
        cls,
        shared: SharedVocabulary,
        *,
        llm: str,
        vision_width: int,
        hidden_width: int,
        head: Head = "linear",
        temperature: float = 1.0,
        vision_model: str | None = None,
        vision_layer: int | None = None,
        vision_keep_cls: bool | None = None,
        vision_pool: tuple[int, int] | None = None,
    ) -> AdapterConfig:
        """The config of an adapter over `shared`."""
        return cls(
            vision_width,
            hidden_width,
            len(shared),
            llm,
            shared.fingerprint,
            head,
            temperature,
            vision_model,
            vision_layer,
            vision_keep_cls,
            vision_pool,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor."""
        h = self.hidden_width
        return {
            **_linear("linear_1", self.vision_width, h),
            **_linear("linear_2", h, h),
            **_linear("head", h, self.rows),
        }


@dataclass(frozen=True)
class DistilledFrom:
    """The adapter that a projector imitates."""

    fingerprint: str
    """Of the transferred adapter, see `vocabkit.distillation.fingerprint`."""
    llm: str
    """The LLM that this adapter was trained with."""
    relative_error: float
    """Of the visual tokens of held-out pictures, see `vocabkit.distillation.Distillation`."""


@dataclass(frozen=True)
class MLPConfig:
    """All about an MLPProjector but its numbers."""

    vision_width: int
    """Dv."""
    hidden_width: int
    """H; equal to `llm_width` in LLaVA."""
    llm_width: int
    """D."""
    llm: str
    """The LLM that it was trained with."""
    vision_model: str | None = None
    """Where the features came from, for people: a hub id or a name."""
    vision_layer: int | None = None
    """Index into the vision model's hidden states, -2 as published."""
    vision_keep_cls: bool | None = None
    """Whether features of class and register tokens were among them; None if unknown, and then so is `vision_pool`."""
    vision_pool: tuple[int, int] | None = None
    """Rows and columns that the grid of patches was pooled to; None if it was not."""
    distilled_from: DistilledFrom | None = None
    """None for one that was trained on captions, or folded."""

    def __post_init__(self) -> None:
        _check_sizes(vision_width=self.vision_width, hidden_width=self.hidden_width, llm_width=self.llm_width)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor."""
        return {
            **_linear("linear_1", self.vision_width, self.hidden_width),
            **_linear("linear_2", self.hidden_width, self.llm_width),
        }


def vision_of(config: AdapterConfig | MLPConfig) -> dict[str, Any]:
    """The fields about where the features came from."""
    return {
        name: value for name, value in vars(config).items() if name.startswith("vision_") and name != "vision_width"
    }


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise VocabkitError(f"{name} {size}: must be at least 1")
