"""Caption losses of held-out samples, and figures computed from them, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vocabkit.data.samples import Sample
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import LVLM, caption_loss, collate
from vocabkit.llm.prompts import IGNORED, IMAGE_ID, Prompt, Template, encode_sample
from vocabkit.vision.features import Features

LONGEST_PROMPT = 2048
"""Maximum tokens of a sample, visual tokens included."""
RESAMPLES = 2000
"""Resamples of the bootstrap."""

VisualTokens = Callable[[Tensor], Tensor]
"""Function from image numbers (I,) to the visual tokens of these images (I, N, D)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How held-out samples are measured."""

    template: Template = "plain"
    """How question and answer become text."""
    batch: int = 32
    """Samples at a time."""
    seed: int = 0
    """Seed of shuffled images, permuted rows and bootstrap intervals."""
    other_weights: bool = False
    """Accept an LLM that was tuned since the adapters were made for it."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Samples ready for one LLM."""

    prompts: Sequence[Prompt]
    keys: Sequence[str]
    """Keys of all images, in the order of the prompts."""
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
    """Turn samples with images into prompts for `llm`.

    Returns:
        The prompts, and the samples that could be used.

    Raises:
        VocabkitError: no sample can be used.
    """
    prompts, kept, reason = [], [], "no images"
    for sample in samples:
        missing = [picture.key for picture in sample.images if picture.key not in features]
        if missing or not sample.images:
            reason = f"no features of {missing[0]}" if missing else reason
            continue
        if sample.problem is not None:
            reason = f"{sample.id}: {sample.problem}"
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
    """The visual tokens that an adapter gives."""
    return lambda numbers: lvlm.visual_tokens(held.features_of(numbers).to(lvlm.llm.device))


@dataclass(frozen=True, eq=False)
class Losses:
    """Nats and number of answer tokens of each sample."""

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
    """A figure with its 95% bootstrap interval over samples."""

    value: float
    low: float
    high: float


@torch.no_grad()
def measure(
    llm: LLM,
    held: HeldOut,
    visual: VisualTokens,
    *,
    batch: int = 32,
    what: str = "caption loss",
    progress: Progress = no_progress,
) -> Losses:
    """Measure the caption loss of each sample when the LLM is shown these visual tokens.

    Args:
        batch: samples at a time.
        what: the step that `progress` is called with.
        progress: reports samples.
    """
    first = held.first_images
    nats, tokens = [], []
    for start in range(0, len(held.prompts), batch):
        prompts = held.prompts[start : start + batch]
        made = collate(list(prompts), []).to(llm.model.device)
        shown = visual(torch.arange(int(first[start]), int(first[start + len(prompts)])))
        nats += caption_loss(llm.model, made, shown.to(llm.model.device)).double().tolist()
        tokens += [sum(label != IGNORED for label in prompt.labels[1:]) for prompt in prompts]
        progress(what, start + len(prompts), len(held.prompts))
    return Losses(np.array(nats), np.array(tokens))


def mean_loss(losses: Losses, *, seed: int = 0) -> Estimate:
    """Nats per answer token."""
    return _of_means([losses], lambda loss: loss, seed)


def retention(blind: Losses, transferred: Losses, native: Losses, *, seed: int = 0) -> Estimate:
    """(blind - transferred) / (blind - native): the share of the gain from seeing that survives the transfer.

    Not finite where `native` is no better than `blind`.
    """
    return _of_means([blind, transferred, native], lambda b, t, n: (b - t) / (b - n), seed)


def difference(worse: Losses, better: Losses, *, seed: int = 0) -> Estimate:
    """Return how many nats per answer token `better` gains over `worse`. Pairing samples narrows the interval."""
    return _of_means([worse, better], lambda w, b: w - b, seed)


def _of_means(losses: Sequence[Losses], figure: Callable[..., float], seed: int) -> Estimate:
    """A figure of mean losses, with the same samples drawn for each."""

    def of_some(drawn: np.ndarray) -> float:
        return figure(*(each.nats[drawn].sum() / each.tokens[drawn].sum() for each in losses))

    return bootstrap(len(losses[0].nats), of_some, seed=seed)


def bootstrap(samples: int, figure: Callable[[np.ndarray], float], *, seed: int = 0) -> Estimate:
    """A figure of all samples, and its percentiles over samples drawn with replacement.

    Args:
        figure: computes the figure from sample numbers (S,), some of them repeated.
    """
    random = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = figure(np.arange(samples))
        drawn = [figure(random.integers(0, samples, samples)) for _ in range(RESAMPLES)]
        low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
