"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vocabkit.adapter.model import Adapter, LangBridgeAdapter
from vocabkit.data.samples import PLACEHOLDER, Turn
from vocabkit.errors import VocabkitError
from vocabkit.infer.result_files import Results
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import write_answers
from vocabkit.llm.prompts import Template, encode_question
from vocabkit.vision.encoder import VisionEncoder

Stage = Literal["waiting for pictures", "vision encoder", "adapter", "LLM", "writing"]
_ON_DEVICE: tuple[Stage, ...] = ("vision encoder", "adapter", "LLM")


@dataclass(frozen=True)
class Profile:
    """Shares of the wall time of a run."""

    seconds: float
    """From the first picture to the last result on disk."""
    shares: dict[str, float]
    """By stage. On a CPU they add up to at most 1. On a GPU those of models are by its own clock, while this thread
    waits for pictures and writing beside it."""
    busy: float | None
    """The share of a GPU that models had, by its own clock, gaps between the kernels of one stage included; None on a
    CPU."""


class Stopwatch:
    """Times the stages of a run on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._start = time.perf_counter()

    @contextmanager
    def host(self, stage: Stage) -> Iterator[None]:
        """Around what this thread waits for."""
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    @contextmanager
    def models(self, stage: Stage) -> Iterator[None]:
        """Around what the device computes. On a GPU between two events in its stream, so that nothing waits."""
        if not self._cuda:
            with self.host(stage):
                yield
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._events.append((stage, begin, end))
        while self._events and self._events[0][2].query():
            self._count()

    def read(self) -> Profile:
        """The shares since the start."""
        if self._cuda:
            torch.cuda.synchronize()
        while self._events:
            self._count()
        seconds = time.perf_counter() - self._start
        shares = {stage: spent / seconds for stage, spent in self._seconds.items()}
        busy = sum(shares.get(stage, 0.0) for stage in _ON_DEVICE) if self._cuda else None
        return Profile(seconds, shares, busy)

    def _count(self) -> None:
        stage, begin, end = self._events.popleft()
        self._seconds[stage] += begin.elapsed_time(end) / 1000  # from milliseconds


# MERGED: Vision encoder -> adapter -> LLM: what one batch of pictures becomes.
# MERGED:
# MERGED: Sizes: B pictures, N patches each, Dv width of features, D width of the LLM, V rows of the shared vocabulary.


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
    connector: Adapter
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
    mixer = connector if isinstance(connector, LangBridgeAdapter) else None
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
                rows = () if mixer is None else (models.rows,)
                tensors["visual_tokens"] = connector(features, *rows)  # (B, N, Dv) -> (B, N, D)
            if k is not None and mixer is not None:
                coefficients, top = mixer.top_coefficients(features, k)  # (B, N, K)
                tensors |= {"coefficient": coefficients.float(), "row": top.int()}
        captions = None
        if caption is not None:
            with watch.models("LLM"):
                captions = caption(tensors["visual_tokens"])
        if not wanted.visual_tokens:
            tensors.pop("visual_tokens", None)
        return Pending(tensors, captions)

    return start
