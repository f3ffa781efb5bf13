"""What an LLM makes of visual tokens from several sources: the proof, or the refutation, of a transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter import MLPProjector
from vocabkit.data import Sample
from vocabkit.errors import VocabkitError
from vocabkit.evaluation.losses import (
    Estimate,
    HeldOut,
    Losses,
    VisualTokens,
    difference,
    mean_loss,
    measure,
    retention,
)
from vocabkit.evaluation.rivals import procrustes, ridge
from vocabkit.features import Features
from vocabkit.llms import LLM
from vocabkit.lvlm import LVLM, Connector, adapter_within, check_vision
from vocabkit.prompts import Template, encode_sample

BLIND, NATIVE, MLP = "blind", "native", "mlp"
"""Names with a part in retention; `validate` takes any other names, too."""
_BLOCK = 8192


@dataclass(frozen=True)
class Rival:
    """An MLP trained with another LLM, and what carries its visual tokens over."""

    mlp: MLPProjector
    source_rows: Tensor
    """(V, D1) embeddings of the shared tokens in the LLM that it was trained with."""
    target_rows: Tensor
    """(V, D2) in this one."""


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
    """Nats per answer token by what was shown: `blind` (the mean embedding), each adapter, `NAME shuffled` (the visual
    tokens of other images), `NAME random vocabulary` (embedding rows permuted), `ridge` and `procrustes`."""
    retention: Mapping[str, Estimate]
    """(blind - NAME) / (blind - native), of each but `native`."""
    of_mlp: Mapping[str, Estimate]
    """(blind - NAME) / (blind - mlp): the share of an MLP's gain, of each but `mlp`."""
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    """blind - NAME, of each adapter."""
    gain_of_picture: Mapping[str, Estimate] = field(default_factory=dict)
    """`NAME shuffled` - NAME: what the right picture is worth beside another one."""


def prepare(
    llm: LLM, samples: Sequence[Sample], features: Features, template: Template, *, longest: int = 2048
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
            prompts.append(encode_sample(llm.tokenizer, sample.turns, template, features.tokens, longest=longest))
        except VocabkitError as error:
            reason = str(error)
            continue
        kept.append(sample)
    if not kept:
        raise VocabkitError(f"none of {len(samples)} samples can be used ({reason})")
    keys = [picture.key for sample in kept for picture in sample.images]
    return HeldOut(prompts, keys, features), kept


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
            retention. The first of them is shown shuffled and with a random vocabulary, too.
        progress: called with (condition, samples done, samples in total).

    Raises VocabkitError: an adapter that does not fit the features or the LLM, or no sample that can be used.
    """
    held, kept = prepare(llm, samples, features, template)
    shown = _conditions(llm, held, adapters, rival, seed)
    losses: dict[str, Losses] = {}
    for name, visual in shown.items():
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

    shuffled = {name: losses[f"{name} shuffled"] for name in adapters if f"{name} shuffled" in losses}
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


def mean_embedding(llm: LLM) -> Tensor:
    """(D,) the mean of the embeddings of all ids of the tokenizer, float32."""
    module = llm.model.get_input_embeddings()
    count = min(len(llm.vocabulary), module.weight.shape[0])
    ids = torch.arange(count, device=llm.model.device)
    with torch.no_grad():
        total: Tensor = sum(module(part).double().sum(dim=0) for part in ids.split(_BLOCK))
        mean: Tensor = (total / count).float()
    return mean


def _conditions(
    llm: LLM, held: HeldOut, adapters: Mapping[str, Connector], rival: Rival | None, seed: int
) -> dict[str, VisualTokens]:
    blind = mean_embedding(llm)
    found: dict[str, VisualTokens] = {
        BLIND: lambda numbers: blind.expand(len(numbers), held.features.tokens, -1),
    }
    first = next(iter(adapters), None)
    others = other_images(held.keys, seed)
    for name, adapter in adapters.items():
        check_vision(adapter, held.features.encoder, held.features.folder)
        lvlm = LVLM(llm, adapter)
        show = _shown_by(lvlm, held)
        found[name] = show
        if name == first:
            if others is not None:
                found[f"{name} shuffled"] = lambda numbers, show=show: show(others[numbers])  # type: ignore[misc]
            if not isinstance(adapter, MLPProjector):
                found[f"{name} random vocabulary"] = _random_vocabulary(lvlm, held, seed)
    if rival is not None:
        check_vision(rival.mlp, held.features.encoder, held.features.folder)
        if rival.mlp.config.llm_width != rival.source_rows.shape[1]:
            raise VocabkitError(
                f"the MLP of the other LLM gives visual tokens of width {rival.mlp.config.llm_width}, but that LLM's "
                f"embeddings have {rival.source_rows.shape[1]}; name the LLM that it was trained with"
            )
        for name, fit in (("ridge", ridge), ("procrustes", procrustes)):
            carry = fit(rival.source_rows, rival.target_rows)
            found[name] = lambda numbers, carry=carry: carry(  # type: ignore[misc]
                rival.mlp(held.features_of(numbers).to(rival.mlp.linear_1.weight))
            )
    return found


def _shown_by(lvlm: LVLM, held: HeldOut) -> VisualTokens:
    return lambda numbers: lvlm.visual_tokens(held.features_of(numbers).to(lvlm.llm.device))


def _random_vocabulary(lvlm: LVLM, held: HeldOut, seed: int) -> VisualTokens:
    """The same coefficients over the embedding rows in a random order."""
    adapter = adapter_within(lvlm.connector)
    rows, scale = lvlm.rows_and_scale()
    rows = rows[torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))]
    return lambda numbers: adapter(held.features_of(numbers).to(lvlm.connector_dtype), rows) * scale


def other_images(keys: Sequence[str], seed: int) -> Tensor | None:
    """(I,) for each image the number of another with another key; None if all are the same."""
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first)
    if len(distinct) < 2:
        return None
    other = {key: first[distinct[to]] for key, to in zip(distinct, derangement(len(distinct), seed), strict=True)}
    return torch.tensor([other[key] for key in keys])


def derangement(count: int, seed: int) -> np.ndarray:
    """(count,) a permutation that leaves nothing in its place, for two or more."""
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found
