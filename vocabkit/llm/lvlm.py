"""LVLM: an adapter and an LLM in one module. Visual tokens take the places of images in a prompt.

Sizes: B sequences of L tokens, I images of N patches, Dv width of the vision encoder, D width of the LLM.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.streamers import BaseStreamer

from vocabkit.adapter.model import Adapter, LangBridgeAdapter
from vocabkit.adapter.partners import check_llm, llm_spellings
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import LLM, composed_rows
from vocabkit.llm.prompts import IGNORED, IMAGE_ID, Prompt, Template

LEAST_SAVED = 0.1
"""Least share of a batch's tokens that a separate pass through the common prefix must save."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of equal length, and the images in them."""

    ids: Tensor
    """(B, L) token ids, `IMAGE_ID` for visual tokens."""
    labels: Tensor
    """(B, L) ids that count in the loss, else `IGNORED`."""
    mask: Tensor
    """(B, L) False for padding."""
    images: Tensor
    """(I, N, Dv) patch features of all images, or (I, 3, H, W) pixels, in the order of `ids`."""

    @property
    def answer_tokens(self) -> int:
        """Tokens that count in the loss; the first of a sequence has nothing before it."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    def to(self, device: torch.device) -> Batch:
        """Return a copy on `device`."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


def collate(prompts: Sequence[Prompt], images: Sequence[Tensor], *, width: int = 0, left: bool = False) -> Batch:
    """Pad prompts of different length to one batch.

    Args:
        images: of all prompts, in order.
        width: Dv, for the shape of `images` if there are none.
        left: pad at the left, for generation.
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

    embeddings: Tensor | None
    """(V, D) the LLM's embeddings of the V_shared of an adapter that was not transferred, if they are frozen."""

    def __init__(self, llm: LLM, connector: Adapter, *, other_weights: bool = False) -> None:
        """Join `llm` and an adapter. A LangBridgeAdapter that was not transferred gets the LLM's rows (Eq. 4).

        Raises VocabkitError: the adapter does not belong to this LLM, see `check_llm`, whose `other_weights` this is.
        """
        super().__init__()
        self.llm = llm.model
        self.connector = connector
        own = getattr(connector, "embeddings", None)
        check_llm(connector.config, connector.shared, llm.table(), rows=own, other_weights=other_weights)
        self._spellings = rows = None
        if isinstance(connector, LangBridgeAdapter) and connector.embeddings is None:
            self._spellings = llm_spellings(connector.shared, llm.vocabulary, llm.source)
            if not llm.model.get_input_embeddings().weight.requires_grad:
                rows = composed_rows(llm.model, self._spellings)
        self.register_buffer("embeddings", rows, persistent=False)

    def visual_tokens(self, features: Tensor) -> Tensor:
        """(I, N, Dv) -> (I, N, D), in the dtype of the adapter's embeddings or weights."""
        features = features.to(self.connector_dtype)
        tokens: Tensor = (
            self.connector(features, self.rows())
            if isinstance(self.connector, LangBridgeAdapter)
            else self.connector(features)
        )
        return tokens

    def rows(self) -> Tensor:
        """Return (V, D): the rows that the coefficients of a LangBridgeAdapter weigh."""
        assert isinstance(self.connector, LangBridgeAdapter)
        for rows in (self.connector.embeddings, self.embeddings):
            if rows is not None:
                return rows
        assert self._spellings is not None
        return composed_rows(self.llm, self._spellings)

    @property
    def connector_dtype(self) -> torch.dtype:
        """The dtype of the adapter's weights."""
        return next(self.connector.parameters()).dtype

    def forward(self, batch: Batch) -> Tensor:
        """Return (B,) float32: the caption loss of each sequence, the summed nats of its answers' tokens."""
        return caption_loss(self.llm, batch, self.visual_tokens(batch.images))

    @torch.no_grad()
    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """Return (B, new) token ids after prompts padded at the left; options of transformers' generate."""
        return generate(self.llm, batch, self.visual_tokens(batch.images), **options)


def embed(llm: Any, ids: Tensor, visual: Tensor) -> Tensor:
    """Embed (B, L) ids, with (I, N, D) visual tokens in place of each `IMAGE_ID` -> (B, L, D).

    Raises VocabkitError: the numbers of visual tokens and of places differ.
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
    """Return (B,) float32: the summed nats of each sequence's answer tokens; visual: (I, N, D)."""
    logits, labels = answer_logits(llm, batch, visual)
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return losses.view(len(labels), -1).sum(dim=1)


def teacher_loss(llm: Any, batch: Batch, visual: Tensor, teacher: Tensor) -> Tensor:
    """Return (B,) float32: the KL divergence, in nats, of the LLM's next-token distributions with the visual tokens
    `visual` from those with `teacher`, both (I, N, D), summed over each sequence's answer tokens.
    """
    found, labels = answer_logits(llm, batch, visual)
    counted = labels != IGNORED  # (B, W), K of them
    with torch.no_grad():
        wanted = answer_logits(llm, batch, teacher)[0][counted].float().log_softmax(dim=-1)  # (K, T)
    found = found[counted].float().log_softmax(dim=-1)
    nats = functional.kl_div(found, wanted, log_target=True, reduction="none").sum(dim=-1)  # (K, T) -> (K,)
    return torch.zeros(labels.shape, device=nats.device).masked_scatter(counted, nats).sum(dim=1)


def answer_logits(llm: Any, batch: Batch, visual: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, W, T) logits for the W positions whose next token is an answer's in some sequence, and those tokens
    (B, W), `IGNORED` where they are none.

    A frozen LLM reads the common prefix of all sequences, before their images, once and not B times.
    """
    labels = batch.labels[:, 1:]
    wanted = (labels != IGNORED).any(dim=0).nonzero().flatten()  # positions whose next token counts in some sequence
    start, cache = _read_start(llm, batch)
    some = (
        {"logits_to_keep": wanted - start} if _takes(llm, "logits_to_keep") else {}
    )  # all logits of a large vocabulary are huge
    known = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    embedded = embed(llm, batch.ids[:, start:], visual)
    logits = llm(inputs_embeds=embedded, attention_mask=batch.mask, **known, **some).logits
    return logits if some else logits[:, wanted - start], labels[:, wanted]  # (B, W, T), (B, W)


def _read_start(llm: Any, batch: Batch) -> tuple[int, DynamicCache | None]:
    """Return the length of the common prefix, before images and answers, and the LLM's keys and values for it.

    0 and None if a separate pass would not pay off, or the LLM is trained or has another kind of cache.
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
    some = {"logits_to_keep": batch.ids.new_empty(0)} if _takes(llm, "logits_to_keep") else {}  # only keys and values
    with torch.no_grad():
        embedded = llm.get_input_embeddings()(first[None, :start])
        llm(inputs_embeds=embedded, past_key_values=cache, use_cache=True, **some)
    cache.batch_repeat_interleave(len(batch.ids))
    return start, cache


@torch.no_grad()
def generate(llm: Any, batch: Batch, visual: Tensor, **options: Any) -> Tensor:
    """Return (B, new) token ids after prompts padded at the left; options of transformers' generate.

    As in `caption_loss`, the LLM reads the common prefix of prompts of the same length once.
    """
    embedded = embed(llm, batch.ids, visual)
    _, cache = _read_start(llm, batch)  # generate takes the whole prompt, and leaves out what the cache has
    found: Tensor = llm.generate(inputs_embeds=embedded, attention_mask=batch.mask, past_key_values=cache, **options)
    return found


def write_answers(
    llm: LLM,
    questions: Sequence[list[int]],
    visual: Tensor,
    *,
    template: Template,
    max_new_tokens: int,
    told: Callable[[list[str]], None] | None = None,
) -> list[str]:
    """Return the LLM's greedy answers: one line each, except for the template chat, which has an end of turn.

    Args:
        questions: their token ids, from `encode_question` with `template`.
        visual: (I, N, D) visual tokens of their images.
        told: called after each token with the answers so far; what it raises ends the writing.
    """
    tokenizer = llm.tokenizer
    line = {} if template == "chat" else {"stopping_criteria": StoppingCriteriaList([_LineEnds(tokenizer)])}
    batch = collate([Prompt(ids, [IGNORED] * len(ids)) for ids in questions], [], left=True).to(llm.model.device)

    def texts(written: Tensor) -> list[str]:
        """(B, new) ids -> the answer of each sequence."""
        found = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.partition("\n")[0].strip() if line else text.strip() for text in found]

    written = generate(
        llm.model,
        batch,
        visual,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        streamer=None if told is None else _Teller(lambda ids: told(texts(ids))),
        **line,
    )
    return texts(written)


class _LineEnds(StoppingCriteria):
    """Ends a sequence with its first line break. `stop_strings` would read the whole vocabulary each time: 1.6 s."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        """(B, L) ids -> (B,) bool: whether the last one has a line break."""
        last = self._tokenizer.batch_decode(input_ids[:, -1:])
        return torch.tensor(["\n" in text for text in last], device=input_ids.device)


class _Teller(BaseStreamer):
    """Hands on all ids that generate has written after each new one."""

    def __init__(self, told: Callable[[Tensor], None]) -> None:
        self._told, self._written = told, list[Tensor]()

    def put(self, ids: Tensor) -> None:
        """Take the next id of each sequence, (B,); generate gives the prompt first, as (B, L)."""
        if ids.ndim == 1:
            self._written.append(ids)
            self._told(torch.stack(self._written, dim=1))

    def end(self) -> None:
        """Nothing is left to tell."""


def _takes(llm: Any, argument: str) -> bool:
    model = llm.get_base_model() if hasattr(llm, "get_base_model") else llm
    return argument in inspect.signature(model.forward).parameters
