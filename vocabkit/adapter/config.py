"""Adapter configuration: plain data, stored as JSON."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary

Head = Literal["linear", "softmax"]
AspectRatio = Literal["square", "pad", "anyres"]
"""What an encoder sees of a picture that is not square, in LLaVA's words (`image_aspect_ratio`).

square: what its image processor makes of the picture: CLIP's crops the centre, SigLIP's stretches it.
pad: the whole picture, padded to a square with the mean colour.
anyres: the whole picture, then tiles of it, as LLaVA-NeXT (see `vocabkit.vision.tiles`).
"""
MOST_POSITIONS = 4096
"""Visual tokens of an image that is spelled out: more than any LLM is shown of one."""
SAMPLE = 1024
"""Ids whose tokens and embedding rows are compared: 1 to 10 MB of rows, far less than any command reads."""
SKETCH = 256
"""Numbers in the sketch of an embedding table: a relative difference is estimated to within sqrt(2 / SKETCH), 9%."""


@dataclass(frozen=True)
class LLMInfo:
    """What an LLM is recognised by: its text tokens and a sample of its embedding table (see `partners.llm_info`)."""

    tokenizer: str
    """Fingerprint of its text tokens, id by id. Special tokens and roles, which tuning adds to, are no part of it."""
    ids: int
    """Ids of the tokenizer that have a row: what the fingerprint covers and samples are taken from."""
    tokens: str
    """Base64 of a byte for each sampled id: 0 if it is not a text token, else a hash of its bytes. Where fingerprints
    differ, it tells another tokenizer from the same one in another format, which may take a few tokens for special."""
    table: tuple[int, int]
    """Rows and width of the embedding table."""
    dtype: str
    """Of its numbers."""
    rounding: float
    """Relative error that the quantisation of a GGUF may have put on the rows; 0 for any other format."""
    sketch: str
    """Base64 of `SKETCH` little-endian float32: sums of the sampled rows' numbers under random signs."""

    def __post_init__(self) -> None:
        if self.ids < 1 or min(self.table) < 1 or not 0 <= self.rounding < math.inf:
            raise VocabkitError("the record of an LLM has numbers that no LLM has")
        if self.dtype not in ("float16", "bfloat16", "float32", "float64"):
            raise VocabkitError(f"the record of an LLM has dtype {quote(self.dtype)}")
        if len(self.token_hashes) != len(self.sample) or len(self.sums) != SKETCH or not np.isfinite(self.sums).all():
            raise VocabkitError("the record of an LLM has a sample that is damaged")

    @property
    def sample(self) -> np.ndarray:
        """(R,) int64: the sampled ids."""
        return sampled_ids(self.ids)

    @property
    def token_hashes(self) -> np.ndarray:
        """(R,) uint8: see `tokens`."""
        return _decoded(self.tokens, "u1")

    @property
    def sums(self) -> np.ndarray:
        """(SKETCH,) float32: see `sketch`."""
        return _decoded(self.sketch, "<f4")


def sampled_ids(ids: int) -> np.ndarray:
    """(R,) int64, R <= SAMPLE: ids spread evenly from 0 to `ids` - 1."""
    return np.unique(np.linspace(0, ids - 1, SAMPLE).astype(np.int64))


def _decoded(text: str, dtype: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except ValueError:  # not base64, or not of whole numbers
        return np.empty(0, dtype)


@dataclass(frozen=True)
class Spelled:
    """Visual tokens that are an image's words in order, spelled out as tokens (see `vocabkit.adapter.spelled`)."""

    threshold: float = 0.03
    """Least mean coefficient of a word, over the patches of an image. Words below it are mostly wrong. Words that are
    no more frequent than in any caption are left out as well."""
    order: Literal["share", "place"] = "share"
    """share: the words with the largest mean coefficients first; place: by the patch where each is largest."""
    positions: int | None = 24
    """P, visual tokens per image; None for as many as patches. 24 hold five or six words, some of them twice."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise VocabkitError(f"`threshold` {self.threshold}: must be a share, from 0 to less than 1")
        if self.order not in ("share", "place"):
            raise VocabkitError(f"`order` {quote(str(self.order))} is unknown; choose share or place")
        if self.positions is not None and not 1 <= self.positions <= MOST_POSITIONS:
            raise VocabkitError(f"`positions` {self.positions}: must be from 1 to {MOST_POSITIONS:,}")

    def in_words(self) -> str:
        """Return what reports and cards say of it."""
        order = "largest share first" if self.order == "share" else "in the order of their places"
        positions = "one position per patch" if self.positions is None else f"{self.positions} positions"
        return f"spelled out: words of a share from {self.threshold:g}, {order}, in {positions}"


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
    llm_info: LLMInfo | None = None
    """The target itself, or what it was tuned to since; None in adapters of earlier versions."""
    trained: bool = False
    """Whether the adapter was trained further with the target."""
    spelled: Spelled | None = None
    """How visual tokens are spelled out; None if they are mixes of embeddings, Eq. 6."""
    pieces: int | None = None
    """Embeddings kept of the target, if visual tokens are spelled out: of the ids that spell the rows, row after row,
    then of the separator. None where there is one for each row and no separator."""
    separator: int | None = None
    """The target's id of the comma that stands between words that are spelled out; None if nothing does."""

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise VocabkitError(f"scale {self.scale}: must be a positive number")
        if self.spelled is None and (self.pieces is not None or self.separator is not None):
            raise VocabkitError(
                "pieces and separator are of visual tokens that are spelled out, but spelled is missing"
            )


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
    """Vision model that the features came from: a hub id or a name, for people to read."""
    vision_layer: int | None = None
    """Index into the vision model's hidden states, -2 as published."""
    vision_keep_cls: bool | None = None
    """Whether features included class and register tokens; None if unknown, and then `vision_pool` is unknown too."""
    vision_pool: tuple[int, int] | None = None
    """Rows and columns that the grid of patches was pooled to; None without pooling."""
    vision_aspect_ratio: AspectRatio | None = None
    """How pictures that are not square are treated; None if unknown."""
    vision_grid_pinpoints: tuple[tuple[int, int], ...] | None = None
    """Heights and widths in pixels that a picture may get in tiles; only for anyres."""
    newline_width: int | None = None
    """D of `image_newline`, a vector of the LLM that it was trained with; only for anyres."""
    vision_fingerprint: str | None = None
    """Fingerprint of the vision encoder's weights and preprocessing; None if unknown, as in imported adapters."""
    llm_info: LLMInfo | None = None
    """The LLM that it was trained with; None if unknown."""
    prompt: str | None = None
    """What to ask an LLM so that it reads the visual tokens as they are meant, with `<image>` in their place."""
    transfer: Transfer | None = None
    """None if the adapter was not transferred."""

    def __post_init__(self) -> None:
        _check_sizes(vision_width=self.vision_width, hidden_width=self.hidden_width, rows=self.rows)
        _check_tiles(self)
        check_head(self.head, self.temperature)
        if self.spelled is not None and (self.head != "softmax" or self.newline_width is not None):
            what = "a linear head's coefficients are no shares of words" if self.head == "linear" else "tiles are mixed"
            raise VocabkitError(f"visual tokens can't be spelled out: {what}; choose mix")

    @classmethod
    def of(
        cls, shared: SharedVocabulary, *, llm: str, vision_width: int, hidden_width: int, **fields: Any
    ) -> AdapterConfig:
        """Return the config of an adapter over `shared`; `fields` are any of the optional ones."""
        return cls(vision_width, hidden_width, len(shared), llm, shared.fingerprint, **fields)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name."""
        h, moved = self.hidden_width, self.transfer
        return {
            **_linear("linear_1", self.vision_width, h),
            **_linear("linear_2", h, h),
            **_linear("head", h, self.rows),
            **({} if moved is None else {"embeddings": (moved.pieces or self.rows, moved.target_width)}),
            **({} if self.newline_width is None else {"image_newline": (self.newline_width,)}),
        }

    def check_newline(self, llm: str, width: int | None) -> None:
        """Raise VocabkitError if there is an image_newline, of another LLM than `llm`, or of another width if known."""
        if self.newline_width is not None and (llm != self.llm or width not in (None, self.newline_width)):
            raise VocabkitError(
                f"the adapter was trained on tiles of pictures, whose rows end in image_newline, a vector of "
                f"{self.llm} that means nothing to {llm}; to use its projector for the whole picture, import it with "
                "`image_aspect_ratio` pad"
            )

    @property
    def output_llm(self) -> str:
        """The LLM that visual tokens are for: the target of a transfer, else the LLM of the training."""
        return self.llm if self.transfer is None else self.transfer.target

    @property
    def output_width(self) -> int | None:
        """D of the visual tokens; None before a transfer, when the adapter takes the rows of any LLM."""
        return None if self.transfer is None else self.transfer.target_width

    @property
    def spelled(self) -> Spelled | None:
        """How visual tokens are spelled out; None if they are mixes of embeddings."""
        return None if self.transfer is None else self.transfer.spelled

    def visual_tokens(self, patches: int) -> int:
        """Return how many visual tokens an image of so many patches has."""
        return patches if self.spelled is None else self.spelled.positions or patches

    @property
    def output_info(self) -> LLMInfo | None:
        """What `output_llm` is recognised by, if that is known."""
        return self.llm_info if self.transfer is None else self.transfer.llm_info

    @property
    def kind(self) -> str:
        """`adapter_type` on disk."""
        return "langbridge" if self.transfer is None else "transferred"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON with `adapter_type`. After a transfer, the config from before is under `adapter`."""
        own, transfer = _record(self), None
        if own.pop("transfer") is not None:
            assert self.transfer is not None
            transfer = _record(self.transfer)
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
    """The adapter that a distilled projector approximates."""

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
    """As in `AdapterConfig`, and so are the next five."""
    vision_layer: int | None = None
    vision_keep_cls: bool | None = None
    vision_pool: tuple[int, int] | None = None
    vision_aspect_ratio: AspectRatio | None = None
    vision_grid_pinpoints: tuple[tuple[int, int], ...] | None = None
    distilled_from: DistilledFrom | None = None
    """None for a projector that was trained on captions, or folded."""
    vision_fingerprint: str | None = None
    """Fingerprint of the vision encoder's weights and preprocessing; None if unknown, as in imported adapters."""
    llm_info: LLMInfo | None = None
    """The LLM that its visual tokens are for; None if unknown."""
    prompt: str | None = None
    """As in `AdapterConfig`."""

    def __post_init__(self) -> None:
        _check_sizes(vision_width=self.vision_width, hidden_width=self.hidden_width, llm_width=self.llm_width)
        _check_tiles(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by name."""
        return {
            **_linear("linear_1", self.vision_width, self.hidden_width),
            **_linear("linear_2", self.hidden_width, self.llm_width),
            **({} if self.newline_width is None else {"image_newline": (self.newline_width,)}),
        }

    def visual_tokens(self, patches: int) -> int:
        """Return how many visual tokens an image of so many patches has: as many."""
        return patches

    @property
    def newline_width(self) -> int | None:
        """D of `image_newline`; None without tiles."""
        return self.llm_width if self.vision_aspect_ratio == "anyres" else None

    @property
    def output_llm(self) -> str:
        """The LLM that visual tokens are for."""
        return self.llm

    @property
    def output_width(self) -> int:
        """D of the visual tokens."""
        return self.llm_width

    @property
    def output_info(self) -> LLMInfo | None:
        """What `output_llm` is recognised by, if that is known."""
        return self.llm_info

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


_LATER = (
    "llm_info", "newline_width", "pieces", "prompt", "separator", "spelled", "trained", "vision_aspect_ratio",
    "vision_fingerprint", "vision_grid_pinpoints",
)  # fmt: skip
"""Fields that configs did not have at first: left out where they are unset, so that fingerprints of adapters stay."""


def _record(value: AdapterConfig | MLPConfig | Transfer) -> dict[str, Any]:
    fields = dataclasses.asdict(value)
    return {
        key: field for key, field in fields.items() if key not in _LATER or (field is not None and field is not False)
    }


def check_head(head: str, temperature: float) -> None:
    """Raise VocabkitError: an unknown head, or a temperature that it can't have."""
    if head not in ("linear", "softmax"):
        raise VocabkitError(f"head {quote(str(head))} is unknown; choose linear or softmax")
    if not 0 < temperature < math.inf or (head == "linear" and temperature != 1.0):
        raise VocabkitError(f"temperature {temperature}: must be positive, and 1 for a linear head")


def vision_of(config: AdapterConfig | MLPConfig) -> dict[str, Any]:
    """Return the fields about the vision encoder and its settings."""
    return {
        name: value for name, value in vars(config).items() if name.startswith("vision_") and name != "vision_width"
    }


def with_llm(config: AdapterConfig | MLPConfig, name: str, info: LLMInfo) -> AdapterConfig | MLPConfig:
    """Return the config of an adapter that has been trained with the LLM `name`, which may have been tuned as well."""
    if isinstance(config, MLPConfig):
        return dataclasses.replace(config, llm_info=info, distilled_from=None)
    if config.transfer is None:
        return dataclasses.replace(config, llm=name, llm_info=info)
    return dataclasses.replace(config, transfer=dataclasses.replace(config.transfer, llm_info=info, trained=True))


def why_not_foldable(head: str) -> str | None:
    """Say why an adapter with this head does not fold; None if it does."""
    if head == "linear":
        return None
    return "a softmax is not linear: the shared vocabulary stays in the model and is streamed at run time"


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _check_tiles(config: AdapterConfig | MLPConfig) -> None:
    """Raise VocabkitError unless an adapter of tiles, and only one, has all that they need."""
    needs = {config.vision_aspect_ratio == "anyres", config.vision_grid_pinpoints is not None}
    if len(needs | {config.newline_width is not None}) > 1:
        raise VocabkitError("image_aspect_ratio anyres goes with image_grid_pinpoints and image_newline, all or none")
    for height, width in config.vision_grid_pinpoints or ():
        _check_sizes(height=height, width=width)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise VocabkitError(f"{name} {size}: must be at least 1")
