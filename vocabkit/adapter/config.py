"""Adapter configuration: plain data, stored as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from vocabkit.adapter.mixing.products import Head
from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary

AspectRatio = Literal["square", "pad"]
"""What an encoder sees of a picture that is not square, in LLaVA's words (`image_aspect_ratio`).

square: what its image processor makes of the picture: CLIP's crops the centre, SigLIP's stretches it.
pad: the whole picture, padded to a square with the mean colour.
"""


@dataclass(frozen=True)
class Transfer:
    """Target LLM of a transferred LangBridgeAdapter, and how it was transferred."""

    target: str
    """The LLM that visual tokens are for: the name of its column in the shared vocabulary."""
    target_width: int
    """D."""
    source_fingerprint: str
    """Fingerprint of the shared vocabulary before the transfer, which may have had more rows and fewer tokenizers."""
    embeddings: str
    """Where the target's embedding rows were read."""
    missing: str
    """How tokens missing from the target were handled: error (there were none), drop or compose."""
    scale: float = 1.0
    """Factor on the visual tokens."""

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise VocabkitError(f"scale {self.scale}: must be a positive number")


@dataclass(frozen=True)
class AdapterConfig:
    """Configuration of a LangBridgeAdapter."""

    KINDS: ClassVar = ("langbridge", "transferred")
    """Its `adapter_type` on disk: as trained, and transferred."""

    vision_width: int
    """Dv."""
    hidden_width: int
    """H."""
    rows: int
    """V."""
    llm: str
    """The LLM that it was trained with: the name of its column in the shared vocabulary."""
    shared_fingerprint: str
    """Fingerprint of the shared vocabulary whose rows are those of the head."""
    head: Head = "linear"
    temperature: float = 1.0
    """Divides the logits of a softmax head."""
    vision_model: str | None = None
    """Source of the features, for people: a hub id or a name."""
    vision_layer: int | None = None
    """Index into the vision model's hidden states, -2 as published."""
    vision_keep_cls: bool | None = None
    """Whether features included class and register tokens; None if unknown, and then so is `vision_pool`."""
    vision_pool: tuple[int, int] | None = None
    """Rows and columns that the grid of patches was pooled to, if any."""
    vision_aspect_ratio: AspectRatio | None = None
    """What the encoder saw of pictures that are not square; None if unknown."""
    transfer: Transfer | None = None
    """None for an adapter as it was trained."""

    def __post_init__(self) -> None:
        _check_sizes(vision_width=self.vision_width, hidden_width=self.hidden_width, rows=self.rows)
        if self.head not in ("linear", "softmax"):
            raise VocabkitError(f"head {quote(str(self.head))} is unknown; choose linear or softmax")
        if not 0 < self.temperature < math.inf or (self.head == "linear" and self.temperature != 1.0):
            raise VocabkitError(f"temperature {self.temperature}: must be positive, and 1 for a linear head")

    @classmethod
    def of(
        cls, shared: SharedVocabulary, *, llm: str, vision_width: int, hidden_width: int, **fields: Any
    ) -> AdapterConfig:
        """Return the config of an adapter over `shared`; `fields` are any of the optional ones."""
        return cls(vision_width, hidden_width, len(shared), llm, shared.fingerprint, **fields)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name."""
        h = self.hidden_width
        return {
            **_linear("linear_1", self.vision_width, h),
            **_linear("linear_2", h, h),
            **_linear("head", h, self.rows),
            **({} if self.transfer is None else {"embeddings": (self.rows, self.transfer.target_width)}),
        }

    @property
    def output_llm(self) -> str:
        """The LLM that visual tokens are for: the target of a transfer, else the LLM of the training."""
        return self.llm if self.transfer is None else self.transfer.target

    @property
    def output_width(self) -> int | None:
        """D of the visual tokens; None before a transfer, when the adapter takes the rows of any LLM."""
        return None if self.transfer is None else self.transfer.target_width

    @property
    def kind(self) -> str:
        """`adapter_type` on disk."""
        return "langbridge" if self.transfer is None else "transferred"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON with `adapter_type`. That of a transferred adapter has its own config under `adapter`."""
        own = _record(self)
        transfer = own.pop("transfer")
        inner = own if transfer is None else {"adapter": own, **transfer}
        return {"adapter_type": self.kind, **inner}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AdapterConfig:
        """Invert `to_json`. Raises msgspec.ValidationError: missing or wrong fields."""
        if content.get("adapter_type") == "transferred":
            transfer = {key: value for key, value in content.items() if key != "adapter"}
            content = {**msgspec.convert(content.get("adapter"), dict[str, Any]), "transfer": transfer}
        return msgspec.convert(dict(content), cls)


@dataclass(frozen=True)
class DistilledFrom:
    """The adapter that a projector imitates."""

    fingerprint: str
    """Fingerprint of the transferred adapter."""
    llm: str
    """The LLM that this adapter was trained with."""
    relative_error: float
    """Relative error of the visual tokens of held-out pictures."""


@dataclass(frozen=True)
class MLPConfig:
    """Configuration of an MLPProjector."""

    KINDS: ClassVar = ("mlp",)
    """Its `adapter_type`."""

    vision_width: int
    """Dv."""
    hidden_width: int
    """H; equal to `llm_width` in LLaVA."""
    llm_width: int
    """D."""
    llm: str
    """The LLM that it was trained with."""
    vision_model: str | None = None
    """Source of the features, for people: a hub id or a name."""
    vision_layer: int | None = None
    """Index into the vision model's hidden states, -2 as published."""
    vision_keep_cls: bool | None = None
    """Whether features included class and register tokens; None if unknown, and then so is `vision_pool`."""
    vision_pool: tuple[int, int] | None = None
    """Rows and columns that the grid of patches was pooled to, if any."""
    vision_aspect_ratio: AspectRatio | None = None
    """What the encoder saw of pictures that are not square; None if unknown."""
    distilled_from: DistilledFrom | None = None
    """None for a projector that was trained on captions, or folded."""

    def __post_init__(self) -> None:
        _check_sizes(vision_width=self.vision_width, hidden_width=self.hidden_width, llm_width=self.llm_width)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name."""
        return {
            **_linear("linear_1", self.vision_width, self.hidden_width),
            **_linear("linear_2", self.hidden_width, self.llm_width),
        }

    @property
    def output_llm(self) -> str:
        """The LLM that visual tokens are for."""
        return self.llm

    @property
    def output_width(self) -> int:
        """D of the visual tokens."""
        return self.llm_width

    @property
    def kind(self) -> str:
        """`adapter_type` on disk."""
        return "mlp"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON with `adapter_type`."""
        return {"adapter_type": self.kind, **_record(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MLPConfig:
        """Invert `to_json`. Raises msgspec.ValidationError: missing or wrong fields."""
        return msgspec.convert(dict(content), cls)


_LATER = ("vision_aspect_ratio",)
"""Fields that configs did not have at first: left out where they are unset, so that fingerprints of adapters stay."""


def _record(value: AdapterConfig | MLPConfig) -> dict[str, Any]:
    return {key: field for key, field in dataclasses.asdict(value).items() if key not in _LATER or field}


def vision_of(config: AdapterConfig | MLPConfig) -> dict[str, Any]:
    """Return the fields about the vision encoder and its settings."""
    return {
        name: value for name, value in vars(config).items() if name.startswith("vision_") and name != "vision_width"
    }


def why_not_foldable(head: str) -> str | None:
    """Why an adapter with this head does not fold; None if it does."""
    if head == "linear":
        return None
    return "a softmax is not linear: V_shared stays in the model and is streamed at run time"


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise VocabkitError(f"{name} {size}: must be at least 1")
