"""Held-out samples as an LLM reads them, and what is shown to it in the places of their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vocabkit.data.samples import Sample
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import LVLM, caption_loss, collate
from vocabkit.llm.prompts import IGNORED, IMAGE_ID, Prompt, Template, encode_sample
from vocabkit.vision.features import Features

LONGEST_PROMPT = 2048
"""Of a sample, its visual tokens included."""

VisualTokens = Callable[[Tensor], Tensor]
"""From the numbers (I,) of images to their visual tokens (I, N, D)."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Samples ready for one LLM."""

    prompts: Sequence[Prompt]
    keys: Sequence[str]
    """Of all images, in the order of the prompts."""
    features: Features

    @cached_property
    def first_images(self) -> np.ndarray:
        """(S + 1,) the number of the first image of each prompt, and of all images."""
        counts = [prompt.ids.count(IMAGE_ID) // self.features.tokens for prompt in self.prompts]
        return np.concatenate([[0], np.cumsum(counts)])

    def features_of(self, numbers: Tensor) -> Tensor:
        """(I,) numbers of images -> (I, N, Dv), float32."""
        found = [self.features[self.keys[number]].float() for number in numbers.tolist()]
        shape = (0, self.features.tokens, self.features.width)
        return torch.stack(found) if found else torch.empty(shape)


def prepare(
    llm: LLM, samples: Sequence[Sample], features: Features, template: Template
) -> tuple[HeldOut, list[Sample]]:
    """Samples with images as `llm` reads them, and those of them that can be used.

    Raises VocabkitError: none can.
    """
    prompts, kept, reason = [], [], "no images"
    for sample in samples:
        missing = [picture.key for picture in sample.images if picture.key not in features]
        if missing or not sample.images:
            reason = f"no features of {missing[0]}" if missing else reason
            continue
        try:
            prompts.append(
                encode_sample(llm.tokenizer, sample.turns, template, features.tokens, longest=LONGEST_PROMPT)
            )
        except VocabkitError as error:
            reason = str(error)
            continue
        kept.append(sample)
    if not kept:
        raise VocabkitError(f"none of {len(samples)} samples can be used ({reason})")
    keys = [picture.key for sample in kept for picture in sample.images]
    return HeldOut(prompts, keys, features), kept


def shown_by(lvlm: LVLM, held: HeldOut) -> VisualTokens:
    """The visual tokens of an adapter."""
    return lambda numbers: lvlm.visual_tokens(held.features_of(numbers).to(lvlm.llm.device))


# MERGED: Caption losses of held-out samples, and what follows from them, with bootstrap intervals.

RESAMPLES = 2000
"""Of the bootstrap."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Of each sample, the nats and the number of its answer tokens."""

    nats: np.ndarray
    """(S,) float64."""
    tokens: np.ndarray
    """(S,)."""

    @property
    def mean(self) -> float:
        """Nats per answer token."""
        return float(self.nats.sum() / self.tokens.sum())


@dataclass(frozen=True)
class Estimate:
    """A figure with the interval that holds it with 95% confidence, over which samples are drawn."""

    value: float
    low: float
    high: float


@torch.no_grad()
def measure(
    llm: LLM, held: HeldOut, visual: VisualTokens, *, batch: int = 32, progress: Callable[[int], None] = lambda n: None
) -> Losses:
    """The caption loss of each sample when the LLM is shown these visual tokens.

    Args:
        batch: samples at a time.
        progress: called with the number of samples after each.
    """
    first = held.first_images
    nats, tokens = [], []
    for start in range(0, len(held.prompts), batch):
        prompts = held.prompts[start : start + batch]
        made = collate(list(prompts), []).to(llm.model.device)
        shown = visual(torch.arange(int(first[start]), int(first[start + len(prompts)])))
        nats += caption_loss(llm.model, made, shown.to(llm.model.device)).double().tolist()
        tokens += [sum(label != IGNORED for label in prompt.labels[1:]) for prompt in prompts]
        progress(len(prompts))
    return Losses(np.array(nats), np.array(tokens))


def mean_loss(losses: Losses, *, seed: int = 0) -> Estimate:
    """Nats per answer token."""
    return _of_means([losses], lambda loss: loss, seed)


def retention(blind: Losses, transferred: Losses, native: Losses, *, seed: int = 0) -> Estimate:
    """(blind - transferred) / (blind - native): the share of what seeing brings that outlives the transfer.

    It is not finite where `native` is no better than `blind` at all.
    """
    return _of_means([blind, transferred, native], lambda b, t, n: (b - t) / (b - n), seed)


def difference(worse: Losses, better: Losses, *, seed: int = 0) -> Estimate:
    """By how many nats per answer token the second is better. Of the same samples: its interval is narrower than
    theirs.
    """
    return _of_means([worse, better], lambda w, b: w - b, seed)


def _of_means(losses: Sequence[Losses], figure: Callable[..., float], seed: int) -> Estimate:
    """A figure of mean losses, for which the same samples are drawn."""

    def of_some(drawn: np.ndarray) -> float:
        return figure(*(each.nats[drawn].sum() / each.tokens[drawn].sum() for each in losses))

    return bootstrap(len(losses[0].nats), of_some, seed=seed)


def bootstrap(samples: int, figure: Callable[[np.ndarray], float], *, seed: int = 0) -> Estimate:
    """A figure of all samples, and its percentiles when they are drawn again.

    Args:
        figure: of the samples of these numbers (S,), of which some stand there more than once.
    """
    random = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = figure(np.arange(samples))
        drawn = [figure(random.integers(0, samples, samples)) for _ in range(RESAMPLES)]
        low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
