"""Caption losses of held-out samples, and what follows from them, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vocabkit.evaluation.held_out import HeldOut, VisualTokens
from vocabkit.llms import LLM
from vocabkit.lvlm import caption_loss, collate
from vocabkit.prompts import IGNORED

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
