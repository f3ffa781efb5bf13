"""Caption losses of held-out samples, and figures computed from them, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from vocabkit.llm.prompts import IGNORED, IMAGE_ID, Prompt, Template, encode_sample, with_visual_tokens
from vocabkit.vision.computed import ComputedFeatures
from vocabkit.vision.features import Features
from vocabkit.vision.tiles import visual_tokens

LONGEST_PROMPT = 2048
"""Maximum tokens of a sample, of which each image counts as one."""
FEWEST_PICTURES = 8
"""With fewer different pictures, a bootstrap interval says little: of one picture it is a point, as if certain."""
RESAMPLES = 2000
"""Resamples of the bootstrap."""

Images = Features | ComputedFeatures
"""Source of patch features: the cache, or an encoder that computes them from pictures."""
VisualTokens = Callable[[Tensor], Iterable[Tensor]]
"""Function from image numbers (I,) to the visual tokens (N, D) of each of these images."""


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
    """With one place for each image."""
    keys: Sequence[str]
    """Keys of all images, in the order of the prompts."""
    features: Images
    tokens: int | None = None
    """Visual tokens of a picture that is not in tiles; None for one per patch."""
    first_left_out: str | None = None
    """Why the first sample that was left out can't be used; None if all can."""

    @property
    def pictures(self) -> int:
        """How many different ones there are."""
        return len(set(self.keys))

    @cached_property
    def first_images(self) -> np.ndarray:
        """(S + 1,) the number of the first image of each prompt, and of all images."""
        return np.concatenate([[0], np.cumsum([prompt.ids.count(IMAGE_ID) for prompt in self.prompts])])

    @cached_property
    def counts(self) -> list[int]:
        """The number of visual tokens of each image."""
        layouts = map(self.features.layouts.get, self.keys)
        whole = self.features.tokens if self.tokens is None else self.tokens
        return [whole if layout is None else layout.tokens for layout in layouts]

    def visual_tokens(
        self, connector: Callable[[Tensor], Tensor], numbers: Tensor, newline: Tensor | None
    ) -> list[Tensor]:
        """The visual tokens (N, D) that `connector`, (L, Dv) -> (L, D), gives of the images with these numbers (I,)."""
        keys = [self.keys[number] for number in numbers.tolist()]
        features = [self.features[key].float() for key in keys]
        return visual_tokens(connector, features, [self.features.layouts.get(key) for key in keys], newline)


def why_unusable(sample: Sample, features: Images) -> str | None:
    """Why a sample can't be measured with any LLM; None if nothing is known against it."""
    missing = [picture.key for picture in sample.images if picture.key not in features]
    if missing:
        return f"no features of {missing[0]}"
    return sample.problem if sample.images else "no images"


def prepare(llm: LLM, samples: Sequence[Sample], features: Images, template: Template) -> tuple[HeldOut, list[Sample]]:
    """Turn samples with images into prompts for `llm`.

    Returns:
        The prompts, and the samples that could be used.

    Raises:
        VocabkitError: no sample can be used.
    """
    prompts, kept, first = [], [], None
    for sample in samples:
        why = why_unusable(sample, features)
        if why is None:
            try:
                prompts.append(encode_sample(llm.tokenizer, sample.turns, template, 1, longest=LONGEST_PROMPT))
            except VocabkitError as error:
                why = str(error)
            else:
                kept.append(sample)
        if why is not None:
            first = first or f"{sample.id}: {why}"
    if not kept:
        raise none_usable(len(samples), first)
    keys = [picture.key for sample in kept for picture in sample.images]
    return HeldOut(prompts, keys, features, first_left_out=first), kept


def none_usable(samples: int, first: str | None) -> VocabkitError:
    """Return the error for data without a sample that can be used; `first` says why the first can't."""
    if first is None:
        return VocabkitError("no samples to measure")
    return VocabkitError(f"none of {samples:,} samples can be used; the first, {first}")


def shown_by(lvlm: LVLM, held: HeldOut) -> VisualTokens:
    """The visual tokens that an adapter gives."""
    return lambda numbers: held.visual_tokens(
        lambda features: lvlm.visual_tokens(features.to(lvlm.llm.device)), numbers, lvlm.connector.image_newline
    )


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
        numbers = torch.arange(int(first[start]), int(first[start + len(prompts)]))
        shown = [tokens.to(llm.model.device) for tokens in visual(numbers)]
        counts = iter([len(tokens) for tokens in shown])
        placed = [with_visual_tokens(prompt, counts) for prompt in prompts]
        made = collate(placed, []).to(llm.model.device)
        joined = torch.cat(shown)[None] if shown else torch.empty(1, 0, 1)  # (1, ΣN, D); no images, no visual tokens
        nats += caption_loss(llm.model, made, joined.to(llm.model.device)).double().tolist()
        tokens += [sum(label != IGNORED for label in prompt.labels[1:]) for prompt in prompts]
        progress(what, start + len(prompts), len(held.prompts))
    return Losses(np.array(nats), np.array(tokens))


def mean_loss(losses: Losses, *, seed: int = 0) -> Estimate:
    """Nats per answer token."""
    return _of_means([losses], lambda loss: loss, seed)


def retention(blind: Losses, transferred: Losses, native: Losses, *, seed: int = 0) -> Estimate:
    """(blind - transferred) / (blind - native): the share of the gain from seeing that survives the transfer.

    Says nothing where `native` is no better than `blind`.
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
