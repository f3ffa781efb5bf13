"""What an LLM makes of visual tokens from several sources: the proof, or the refutation, of a transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vocabkit.data import Sample
from vocabkit.evaluation.conditions import BLIND, SHUFFLED, Rival, conditions
from vocabkit.evaluation.held_out import prepare
from vocabkit.evaluation.losses import Estimate, Losses, difference, mean_loss, measure, retention
from vocabkit.features import Features
from vocabkit.llms import LLM
from vocabkit.lvlm import Connector
from vocabkit.prompts import Template

NATIVE, MLP = "native", "mlp"
"""Adapters with a part in retention; `validate` takes any other names, too."""


@dataclass(frozen=True)
class Validation:
    """Results of one LLM on one data set."""

    llm: str
    samples: int
    left_out: int
    """Samples without features, or that can't be used."""
    visual_tokens: int
    """Of an image. Losses compare only at the same number."""
    template: str
    caption_loss: Mapping[str, Estimate]
    """Nats per answer token by what was shown: `blind` (the mean embedding), each adapter, followed by `NAME shuffled`
    (the visual tokens of other images; not if all samples have the same) and `NAME random vocabulary` (embedding rows
    permuted; not of an MLP), `ridge` and `procrustes`."""
    retention: Mapping[str, Estimate]
    """(blind - NAME) / (blind - native), of each but `native`."""
    of_mlp: Mapping[str, Estimate]
    """(blind - NAME) / (blind - mlp): the share of an MLP's gain, of each but `mlp`."""
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    """blind - NAME, of each adapter."""
    gain_of_picture: Mapping[str, Estimate] = field(default_factory=dict)
    """`NAME shuffled` - NAME: what the right picture is worth beside another one."""


def validate(
    llm: LLM,
    samples: Sequence[Sample],
    features: Features,
    adapters: Mapping[str, Connector],
    *,
    template: Template,
    rival: Rival | None = None,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda shown, done, total: None,
) -> Validation:
    """Measure the caption loss of `samples` under every condition.

    Args:
        adapters: by name. `transferred`, `native` (trained on this LLM) and `mlp` (an MLP trained on it) have a part in
            retention.
        progress: called with (condition, samples done, samples in total).

    Raises VocabkitError: an adapter that does not fit the features or the LLM, or has the name of something else that
    is shown, or no sample that can be used.
    """
    held, kept = prepare(llm, samples, features, template)
    losses: dict[str, Losses] = {}
    for name, visual in conditions(llm, held, adapters, rival, seed).items():
        done = 0

        def count(samples_done: int, name: str = name) -> None:
            nonlocal done
            done += samples_done
            progress(name, done, len(kept))

        losses[name] = measure(llm, held, visual, batch=batch, progress=count)

    def shares(reference: str) -> dict[str, Estimate]:
        if reference not in losses:
            return {}
        others = [name for name in losses if name not in (BLIND, reference)]
        return {name: retention(losses[BLIND], losses[name], losses[reference], seed=seed) for name in others}

    shuffled = {name: losses[of_it] for name in adapters if (of_it := f"{name} {SHUFFLED}") in losses}
    return Validation(
        llm=llm.vocabulary.name,
        samples=len(kept),
        left_out=len(samples) - len(kept),
        visual_tokens=features.tokens,
        template=template,
        caption_loss={name: mean_loss(found, seed=seed) for name, found in losses.items()},
        retention=shares(NATIVE),
        of_mlp=shares(MLP),
        gain={name: difference(losses[BLIND], losses[name], seed=seed) for name in adapters},
        gain_of_picture={name: difference(other, losses[name], seed=seed) for name, other in shuffled.items()},
    )
