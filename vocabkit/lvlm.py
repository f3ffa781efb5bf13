"""LVLM: an adapter and an LLM in one module. Visual tokens go where the images of a prompt stand.

Sizes: B sequences of L tokens, I images of N patches, Dv width of the vision encoder, D width of the LLM.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from vocabkit.adapter import LangBridgeAdapter, MLPProjector, adapter_of
from vocabkit.checkpoint import read_checkpoint
from vocabkit.errors import VocabkitError
from vocabkit.llms import LLM
from vocabkit.pretrained import locate
from vocabkit.prompts import IGNORED, IMAGE_ID, Prompt, Template
from vocabkit.transferred import TransferredAdapter
from vocabkit.vision import EncoderInfo, VisionEncoder, open_vision
from vocabkit.vision.opening import LAYER

Connector = LangBridgeAdapter | MLPProjector | TransferredAdapter

LEAST_SAVED = 0.1
"""Share of a batch's tokens that must be saved for a pass of its own through what all sequences begin with."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of equal length, and the images in them."""

    ids: Tensor
    """(B, L) token ids, `IMAGE_ID` for visual tokens."""
    labels: Tensor
    """(B, L) ids that the loss falls on, else `IGNORED`."""
    mask: Tensor
    """(B, L) False for padding."""
    images: Tensor
    """(I, N, Dv) patch features of all images, or (I, 3, H, W) pixels, in the order in which they stand in `ids`."""

    @property
    def answer_tokens(self) -> int:
        """Tokens that the loss falls on; the first of a sequence has nothing before it."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


def collate(prompts: Sequence[Prompt], images: Sequence[Tensor], *, width: int = 0, left: bool = False) -> Batch:
    """Prompts of different length as one batch.

    Args:
        images: of all prompts, in order.
        width: Dv, of which an adapter is told even if there are no images.
        left: whether padding stands before a prompt, from where generation goes on at the right.
    """
    longest = max(len(prompt.ids) for prompt in prompts)

    def padded(rows: list[list[int]], filler: int) -> Tensor:
        empty = [[filler] * (longest - len(row)) for row in rows]
        return torch.tensor([gap + row if left else row + gap for row, gap in zip(rows, empty, strict=True)])

    mask = padded([[1] * len(prompt.ids) for prompt in prompts], 0).bool()
    ids, labels = padded([p.ids for p in prompts], 0), padded([p.labels for p in prompts], IGNORED)
    return Batch(ids, labels, mask, torch.stack(list(images)) if images else torch.empty(0, 1, width))


class LVLM(nn.Module):
    """Vision features -> adapter -> LLM."""

    shared_ids: Tensor | None
    """(V,) the LLM's ids of the V_shared of a LangBridgeAdapter."""
    embeddings: Tensor | None
    """(V, D) its embeddings of them, if they are frozen."""

    def __init__(self, llm: LLM, connector: Connector) -> None:
        """An LVLM of `llm` and an adapter for it. A LangBridgeAdapter gets the LLM's rows of its V_shared (Eq. 4).

        Raises VocabkitError: the adapter's visual tokens have another width, or its shared vocabulary lacks this LLM or
        has other ids.
        """
        super().__init__()
        self.llm = llm.model
        self.connector = connector
        ids = rows = None
        if isinstance(connector, LangBridgeAdapter):
            ids = llm.ids(connector.shared)
            if not llm.model.get_input_embeddings().weight.requires_grad:
                rows = llm.model.get_input_embeddings()(ids)
        elif isinstance(connector, TransferredAdapter):
            llm.check_ids(connector.shared, connector.config.target)
        self.register_buffer("shared_ids", ids, persistent=False)
        self.register_buffer("embeddings", rows, persistent=False)
        found = visual_width(connector)
        if found is not None and found != llm.width:
            raise VocabkitError(
                f"the adapter gives visual tokens of width {found}, but the embeddings of {llm.source} have "
                f"{llm.width}; transfer it to this LLM first"
            )

    def visual_tokens(self, features: Tensor) -> Tensor:
        """(I, N, Dv) -> (I, N, D), in the dtype of the adapter's embeddings or weights."""
        features = features.to(self.connector_dtype)
        rows = (self.rows_and_scale()[0],) if isinstance(self.connector, LangBridgeAdapter) else ()
        tokens: Tensor = self.connector(features, *rows)
        return tokens

    def rows_and_scale(self) -> tuple[Tensor, float]:
        """(V, D) the embeddings that coefficients weigh, and the factor on the sum. Not of an MLP projector."""
        if isinstance(self.connector, TransferredAdapter):
            return self.connector.embeddings, self.connector.config.scale
        if self.embeddings is not None:
            return self.embeddings, 1.0
        return self.llm.get_input_embeddings()(self.shared_ids), 1.0

    @property
    def connector_dtype(self) -> torch.dtype:
        """Of the adapter's weights."""
        return next(self.connector.parameters()).dtype

    def forward(self, batch: Batch) -> Tensor:
        """(B,) the caption loss of each sequence: the sum of the nats of its answers' tokens, float32."""
        return caption_loss(self.llm, batch, self.visual_tokens(batch.images))

    @torch.no_grad()
    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """(B, new) token ids that the LLM adds to prompts padded at the left; options as in transformers' generate."""
        return generate(self.llm, batch, self.visual_tokens(batch.images), **options)


def embed(llm: Any, ids: Tensor, visual: Tensor) -> Tensor:
    """What an LLM reads: (B, L) ids and (I, N, D) visual tokens for the `IMAGE_ID` in them -> (B, L, D).

    Raises VocabkitError: not as many visual tokens as places for them.
    """
    places = ids == IMAGE_ID
    embedded = llm.get_input_embeddings()(ids.masked_fill(places, 0))  # (B, L, D)
    if int(places.sum()) != visual.shape[0] * visual.shape[1]:
        raise VocabkitError(
            f"{visual.shape[0]} images of {visual.shape[1]} visual tokens for {int(places.sum())} places in the text"
        )
    mixed: Tensor = embedded.masked_scatter(places[..., None], visual.to(embedded.dtype))
    return mixed


def caption_loss(llm: Any, batch: Batch, visual: Tensor) -> Tensor:
    """(B,) for each sequence the sum of the nats of its answers' tokens, float32; visual: (I, N, D).

    What all sequences begin with, before their images, is read once by a frozen LLM, and not as often as there are
    sequences.
    """
    labels = batch.labels[:, 1:]
    wanted = (labels != IGNORED).any(dim=0).nonzero().flatten()  # positions whose next token counts somewhere
    start, cache = _read_start(llm, batch)
    some = {"logits_to_keep": wanted - start} if _takes(llm, "logits_to_keep") else {}  # of a large vocabulary: huge
    known = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    embedded = embed(llm, batch.ids[:, start:], visual)
    logits = llm(inputs_embeds=embedded, attention_mask=batch.mask, **known, **some).logits
    logits = logits if some else logits[:, wanted - start]  # (B, W, T)
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), labels[:, wanted].flatten(), reduction="none", ignore_index=IGNORED
    )
    return losses.view(len(labels), -1).sum(dim=1)


def _read_start(llm: Any, batch: Batch) -> tuple[int, DynamicCache | None]:
    """How many ids all sequences begin with, before images and answers, and the LLM's keys and values of them.

    0 and None where a pass of its own would not pay, or where the LLM is trained or keeps something else of a text.
    """
    first = batch.ids[0]
    alike = (batch.ids == first).all(dim=0) & batch.mask.all(dim=0) & (first != IMAGE_ID)  # (L,)
    before_answers = (batch.labels[:, 1:] == IGNORED).all(dim=0)  # (L - 1,)
    start = int((alike[:-1] & before_answers).cumprod(dim=0).sum())
    if start * (len(batch.ids) - 1) < LEAST_SAVED * batch.ids.numel():
        return 0, None
    is_trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in llm.parameters())
    is_checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in llm.modules())
    if is_trained or is_checkpointing or not _takes(llm, "past_key_values"):
        return 0, None
    cache = DynamicCache(config=llm.config)
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return 0, None
    some = {"logits_to_keep": 1} if _takes(llm, "logits_to_keep") else {}
    with torch.no_grad():
        embedded = llm.get_input_embeddings()(first[None, :start])
        llm(inputs_embeds=embedded, past_key_values=cache, use_cache=True, **some)
    cache.batch_repeat_interleave(len(batch.ids))
    return start, cache


@torch.no_grad()
def generate(llm: Any, batch: Batch, visual: Tensor, **options: Any) -> Tensor:
    """(B, new) token ids that follow prompts padded at the left; options as in transformers' generate."""
    embedded = embed(llm, batch.ids, visual)
    found: Tensor = llm.generate(inputs_embeds=embedded, attention_mask=batch.mask, **options)
    return found


def write_answers(
    llm: LLM, questions: Sequence[list[int]], visual: Tensor, *, template: Template, max_new_tokens: int
) -> list[str]:
    """What the LLM answers, greedily: one line, but for the template chat, which has an end of turn.

    Args:
        questions: token ids of each, of `encode_question` with `template`.
        visual: (I, N, D) visual tokens of their images.
    """
    tokenizer = llm.tokenizer
    line = {} if template == "chat" else {"stop_strings": "\n", "tokenizer": tokenizer}
    batch = collate([Prompt(ids, [IGNORED] * len(ids)) for ids in questions], [], left=True).to(llm.model.device)
    written = generate(
        llm.model,
        batch,
        visual,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        **line,
    )
    texts: list[str] = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [text.partition("\n")[0].strip() if line else text.strip() for text in texts]


def load_connector(source: str | Path) -> Connector:
    """As `load_adapter`, and adapters that were transferred, too. Raises VocabkitError."""
    path = locate(source)
    checkpoint = read_checkpoint(path)
    if checkpoint.config.get("adapter_type") == TransferredAdapter.adapter_type:
        return TransferredAdapter.from_checkpoint(path, checkpoint)
    return adapter_of(path, checkpoint)


def visual_width(connector: Connector) -> int | None:
    """D of the visual tokens; None for a LangBridgeAdapter, which takes that of any LLM."""
    match connector:
        case MLPProjector():
            return connector.config.llm_width
        case TransferredAdapter():
            return connector.config.target_width
    return None


def vision_width(connector: Connector) -> int:
    """Dv of the features that it takes."""
    return int(adapter_within(connector).config.vision_width)


def adapter_within(connector: Connector) -> LangBridgeAdapter | MLPProjector:
    """What was trained: of an adapter that was transferred, that without the embedding rows of its target."""
    return connector.adapter if isinstance(connector, TransferredAdapter) else connector


def llm_of(connector: Connector) -> str:
    """The name of the LLM that it was transferred to, or else trained with."""
    return connector.config.target if isinstance(connector, TransferredAdapter) else connector.config.llm


def encoder_of(
    connector: Connector,
    vision: str | None = None,
    *,
    layer: int | None = None,
    keep_cls: bool | None = None,
    pool: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """The vision encoder that an adapter was trained with.

    Args:
        vision: as for `open_vision`, where it stands elsewhere now, or the adapter's config does not say.
        layer, keep_cls, pool: as for `open_vision`, where the config does not say.

    Raises VocabkitError: nobody says which encoder, or as `check_vision` and `open_vision`.
    """
    config = adapter_within(connector).config
    source = vision or config.vision_model
    if source is None:
        raise VocabkitError("the adapter does not say what vision encoder it was trained with: add --vision")
    layer = config.vision_layer if layer is None else layer
    keep_cls = config.vision_keep_cls if keep_cls is None else keep_cls
    encoder = open_vision(
        source,
        layer=LAYER if layer is None else layer,
        keep_cls=bool(keep_cls),
        pool=pool or config.vision_pool,
        device=device,
        dtype=dtype,
    )
    check_vision(connector, encoder.info, source)
    return encoder


def check_vision(connector: Connector, info: EncoderInfo, source: str | Path) -> None:
    """Raises VocabkitError: these features, of `source`, are others than the adapter's config says that it takes."""
    config = adapter_within(connector).config
    if info["width"] != config.vision_width:
        raise VocabkitError(
            f"{source}: gives features of width {info['width']}, but the adapter takes {config.vision_width}; use the "
            "vision model that it was trained with"
        )
    known: dict[str, tuple[object, object]] = {}
    if config.vision_layer is not None:
        known["layer"] = config.vision_layer, info["layer"]
    if config.vision_keep_cls is not None:
        known |= {"keep_cls": (config.vision_keep_cls, info["keep_cls"]), "pool": (config.vision_pool, info["pool"])}
    for name, (wanted, found) in known.items():
        if wanted != found:
            raise VocabkitError(
                f"{source}: gives features with {name} {_shown(found)}, but the adapter was trained with {name} "
                f"{_shown(wanted)}; use the same"
            )


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def _takes(llm: Any, argument: str) -> bool:
    model = llm.get_base_model() if hasattr(llm, "get_base_model") else llm
    return argument in inspect.signature(model.forward).parameters
