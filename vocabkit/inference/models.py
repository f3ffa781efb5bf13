"""Vision encoder -> adapter -> LLM: what one batch of pictures becomes.

Sizes: B pictures, N patches each, Dv width of features, D width of the LLM, V rows of the shared vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.data import PLACEHOLDER, Turn
from vocabkit.errors import VocabkitError
from vocabkit.inference.result_files import Results
from vocabkit.inference.stopwatch import Stopwatch
from vocabkit.llms import LLM
from vocabkit.lvlm import Connector, adapter_within, write_answers
from vocabkit.prompts import Template, encode_question
from vocabkit.vision import VisionEncoder


@dataclass(frozen=True)
class Captioning:
    """How captions are asked for."""

    question: str = PLACEHOLDER
    """With one placeholder for the picture."""
    template: Template = "plain"
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Wanted:
    """What is computed of each picture."""

    visual_tokens: bool = True
    top: int | None = None
    """K: how many of the largest coefficients of each patch."""
    captions: Captioning | None = None


@dataclass(frozen=True, eq=False)
class Models:
    """All that turns pictures into results, on one device, in one dtype."""

    encoder: VisionEncoder
    connector: Connector
    rows: Tensor | None
    """(V, D) embeddings of the LLM, for a LangBridgeAdapter whose visual tokens are wanted."""
    llm: LLM | None
    """For captions."""
    device: torch.device
    dtype: torch.dtype

    def moved(self) -> Models:
        """The same, moved there."""
        connector = self.connector.to(self.device, self.dtype)
        rows = None if self.rows is None else self.rows.to(self.device, self.dtype)
        if self.llm is not None:
            self.llm.model.to(self.device)
        return Models(self.encoder, connector, rows, self.llm, self.device, self.dtype)


def captioner(models: Models, asked: Captioning) -> Callable[[Tensor], list[str]]:
    """From visual tokens (B, N, D) to a caption of each picture. Raises VocabkitError: the question has not one
    placeholder.
    """
    llm = models.llm
    assert llm is not None
    if asked.question.count(PLACEHOLDER) != 1:
        raise VocabkitError(f"--question: needs {PLACEHOLDER} once, where the picture stands")
    ids = encode_question(llm.tokenizer, [Turn(asked.question, "")], asked.template, models.encoder.tokens)
    return lambda visual: write_answers(
        llm, [ids] * len(visual), visual, template=asked.template, max_new_tokens=asked.max_new_tokens
    )


class Pending:
    """Results on their way from the device."""

    def __init__(self, tensors: Mapping[str, Tensor], captions: list[str] | None) -> None:
        self._tensors = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
        self._captions = captions
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def results(self, images: Sequence[str]) -> Results:
        """Of the pictures with these keys, when they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return Results(images, self._tensors, self._captions)


def starter(models: Models, wanted: Wanted, watch: Stopwatch) -> Callable[[Tensor], Pending]:
    """From pixels (B, 3, H, W) on the CPU to results; on a GPU without waiting for them, but for captions.

    Raises VocabkitError: the models do not fit together, or an adapter without coefficients is to name the largest.
    """
    connector, k = models.connector, wanted.top
    inner = adapter_within(connector)
    mixer = inner if isinstance(inner, LangBridgeAdapter) else None
    if k is not None and mixer is None:
        raise VocabkitError("--top: an MLP projector has no coefficients; it needs an adapter with a vocabulary")
    if k is not None and mixer is not None and not 1 <= k <= mixer.config.rows:
        raise VocabkitError(f"--top {k}: give a number from 1 to the {mixer.config.rows:,} rows of the adapter")
    caption = None if wanted.captions is None else captioner(models, wanted.captions)

    @torch.inference_mode()
    def start(pixels: Tensor) -> Pending:
        if models.device.type == "cuda":
            pixels = pixels.pin_memory().to(models.device, non_blocking=True)
        with watch.models("vision encoder"):
            features = models.encoder(pixels).to(models.dtype)  # (B, 3, H, W) -> (B, N, Dv)
        tensors = {}
        with watch.models("adapter"):
            if wanted.visual_tokens or caption:
                with_rows = isinstance(connector, LangBridgeAdapter)
                visual = connector(features, models.rows) if with_rows else connector(features)  # (B, N, D)
                tensors["visual_tokens"] = visual
            if k is not None and mixer is not None:
                coefficients, rows = mixer.top_coefficients(features, k)  # (B, N, K)
                tensors |= {"coefficient": coefficients.float(), "row": rows.int()}
        captions = None
        if caption is not None:
            with watch.models("LLM"):
                captions = caption(tensors["visual_tokens"])
        if not wanted.visual_tokens:
            tensors.pop("visual_tokens", None)
        return Pending(tensors, captions)

    return start
