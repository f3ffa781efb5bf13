"""Choose the scale of a transferred adapter: the factor on visual tokens with the lowest caption loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from torch import Tensor

from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.partners import check_encoder
from vocabkit.data.samples import Sample
from vocabkit.data.sources import samples_of
from vocabkit.errors import VocabkitError
from vocabkit.evaluate.losses import (
    FEWEST_PICTURES,
    Estimate,
    EvaluateOptions,
    Losses,
    VisualTokens,
    difference,
    measure,
    prepare,
    shown_by,
)
from vocabkit.evaluate.validate import FileOptions
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.transfer.transfer import with_scale
from vocabkit.vision.features import Features, open_features

FACTORS = tuple(2 ** (power / 2) for power in range(-10, 7))
"""Factors to try on the adapter's scale, from 1/32 to 8. Linear heads overshoot more often than they fall short."""


@dataclass(frozen=True)
class Calibration:
    """The scale that was chosen."""

    llm: str
    samples: int
    scale: float
    """The scale with the lowest caption loss, or the adapter's own if that is not significantly higher (95%)."""
    caption_loss: Mapping[float, float]
    """Scale -> nats per answer token."""
    best: float
    """The scale with the lowest caption loss."""
    gain: Estimate
    """Gain of `best` over the adapter's own scale, in nats per answer token."""
    pictures: int
    """Different pictures. With fewer than `FEWEST_PICTURES`, the scale is kept."""


def calibrate_file(
    transferred: LangBridgeAdapter,
    llm: str,
    data: str,
    options: FileOptions,
    *,
    progress: Progress = no_progress,
) -> Calibration:
    """Set the scale of `transferred`, in place, to what `calibrate` chooses on the samples of one file or dataset.

    Args:
        llm: the LLM that it was moved to, as `load_llm` takes it.
        data: samples to choose on, as `samples_of` takes them. They must not be those that results are reported on.
        progress: reports scales.

    Raises:
        VocabkitError: anything that can't be found or does not fit.
    """
    assert options.features is not None
    place, features = open_device(options.device), open_features(Path(options.features))
    check_encoder(transferred.config, features.encoder, features.folder)
    loaded = load_llm(llm)
    loaded.model.to(place)
    images = None if options.images is None else Path(options.images)
    samples = list(islice(samples_of(data, images, options.columns), options.limit))
    found = calibrate(loaded, samples, features, transferred.to(place), options, progress=progress)
    with_scale(transferred, found.scale)
    return found


def calibrate(
    llm: LLM,
    samples: Sequence[Sample],
    features: Features,
    transferred: LangBridgeAdapter,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    progress: Progress = no_progress,
) -> Calibration:
    """Measure the caption loss of `samples` at each scale.

    Args:
        progress: reports scales.

    Raises:
        VocabkitError: not the features of the training, no sample that can be used, or the best scale is the smallest
            or largest one tried.
    """
    check_encoder(transferred.config, features.encoder, features.folder)
    held, kept = prepare(llm, samples, features, options.template)
    visual = shown_by(LVLM(llm, transferred, other_weights=options.other_weights), held)
    found: dict[float, Losses] = {}
    for number, factor in enumerate(FACTORS):
        shown = measure(llm, held, partial(_times, visual, factor), batch=options.batch)
        found[transferred.scale * factor] = shown
        progress("scale", number + 1, len(FACTORS))
    own, best = transferred.scale, min(found, key=lambda scale: found[scale].mean)
    gain = difference(found[own], found[best], seed=options.seed)
    certain = gain.low > 0 and held.pictures >= FEWEST_PICTURES
    if certain and best in (min(found), max(found)):
        raise VocabkitError(
            f"the loss is lowest at the smallest or largest scale tried, {best:.3g}, so the best may lie beyond; "
            "set `scale` to rms or a number"
        )
    losses = {scale: shown.mean for scale, shown in found.items()}
    return Calibration(llm.vocabulary.name, len(kept), best if certain else own, losses, best, gain, held.pictures)


def _times(visual: VisualTokens, factor: float, numbers: Tensor) -> list[Tensor]:
    return [tokens * factor for tokens in visual(numbers)]
