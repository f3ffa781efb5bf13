"""The factor on transferred visual tokens at which the target LLM reads them best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.partners import check_encoder
from vocabkit.data.samples import Sample
from vocabkit.errors import VocabkitError
from vocabkit.evaluate.losses import Estimate, Losses, VisualTokens, difference, measure, prepare, shown_by
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import LVLM
from vocabkit.llm.prompts import Template
from vocabkit.vision.features import Features

FACTORS = tuple(2 ** (power / 2) for power in range(-10, 7))
"""Tried, from 1/32 to 8, each beside the scale that the adapter has."""


@dataclass(frozen=True)
class Calibration:
    """What was found, on how many samples."""

    llm: str
    samples: int
    scale: float
    """Of the least caption loss; the scale that the adapter has, if the least is not certainly less."""
    caption_loss: Mapping[float, float]
    """Scale -> nats per answer token."""
    best: float
    """The scale of the least caption loss."""
    gain: Estimate
    """What `best` gains over the scale that the adapter has, nats per answer token."""


def calibrate(
    llm: LLM,
    samples: Sequence[Sample],
    features: Features,
    transferred: LangBridgeAdapter,
    *,
    template: Template,
    batch: int = 32,
    progress: Callable[[str, int, int], None] = lambda shown, done, total: None,
) -> Calibration:
    """Measure the caption loss of `samples` at each scale. They must not be those that results are reported on.

    Where it can't be told from noise (95%) that another scale is better, the adapter keeps its own.

    Raises VocabkitError: other features than in training, no sample that can be used, or the scale to be chosen is the
    first or last.
    """
    check_encoder(transferred.config, features.encoder, features.folder)
    held, kept = prepare(llm, samples, features, template)
    visual = shown_by(LVLM(llm, transferred), held)
    found: dict[float, Losses] = {}
    for number, factor in enumerate(FACTORS):
        shown = measure(llm, held, partial(_times, visual, factor), batch=batch)
        found[transferred.scale * factor] = shown
        progress("scale", number + 1, len(FACTORS))
    own, best = transferred.scale, min(found, key=lambda scale: found[scale].mean)
    gain = difference(found[own], found[best])
    if gain.low > 0 and best in (min(found), max(found)):
        raise VocabkitError(
            f"the loss is least at the smallest or largest scale tried, {best:.3g}; nothing to choose by"
        )
    losses = {scale: shown.mean for scale, shown in found.items()}
    return Calibration(llm.vocabulary.name, len(kept), best if gain.low > 0 else own, losses, best, gain)


def _times(visual: VisualTokens, factor: float, numbers: Tensor) -> Tensor:
    return visual(numbers) * factor
