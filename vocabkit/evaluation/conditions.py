"""What an LLM is shown in a validation: visual tokens of adapters, of rivals, and of what they must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter import MLPProjector
from vocabkit.errors import VocabkitError, quote
from vocabkit.evaluation.held_out import HeldOut, VisualTokens, shown_by
from vocabkit.evaluation.rivals import procrustes, ridge
from vocabkit.llms import LLM
from vocabkit.lvlm import LVLM, Connector, adapter_within, check_vision

BLIND = "blind"
"""What all others are compared with."""
SHUFFLED, RANDOM_VOCABULARY = "shuffled", "random vocabulary"
"""Controls of each adapter, after whose name they stand."""

_BLOCK = 8192
"""Rows of the embedding table in float64 at a time."""


@dataclass(frozen=True)
class Rival:
    """An MLP trained with another LLM, and what carries its visual tokens over."""

    mlp: MLPProjector
    source_rows: Tensor
    """(V, D1) embeddings of the shared tokens in the LLM that it was trained with."""
    target_rows: Tensor
    """(V, D2) in this one."""


def mean_embedding(llm: LLM) -> Tensor:
    """(D,) the mean of the embeddings of all ids of the tokenizer, float32."""
    module = llm.model.get_input_embeddings()
    count = min(len(llm.vocabulary), module.weight.shape[0])
    ids = torch.arange(count, device=llm.model.device)
    with torch.no_grad():
        total: Tensor = sum(module(part).double().sum(dim=0) for part in ids.split(_BLOCK))
        mean: Tensor = (total / count).float()
    return mean


def blind_tokens(llm: LLM, held: HeldOut) -> VisualTokens:
    """The mean embedding, whatever the image."""
    mean = mean_embedding(llm)
    return lambda numbers: mean.expand(len(numbers), held.features.tokens, -1)


def conditions(
    llm: LLM, held: HeldOut, adapters: Mapping[str, Connector], rival: Rival | None, seed: int
) -> dict[str, VisualTokens]:
    """All that is shown, by what it is called in `Validation.caption_loss`: each adapter is followed by its controls.

    Raises VocabkitError: one that does not fit the features or the LLM, or has the name of another condition.
    """
    found = {BLIND: blind_tokens(llm, held)}

    def add(name: str, visual: VisualTokens) -> None:
        if name in found:
            raise VocabkitError(f"two things to be shown are called {quote(name)}; give the adapter another name")
        found[name] = visual

    others = other_images(held.keys, seed)
    for name, adapter in adapters.items():
        check_vision(adapter, held.features.encoder, held.features.folder)
        lvlm = LVLM(llm, adapter)
        show = shown_by(lvlm, held)
        add(name, show)
        if others is not None:
            add(f"{name} {SHUFFLED}", lambda numbers, show=show: show(others[numbers]))  # type: ignore[misc]
        if not isinstance(adapter, MLPProjector):
            add(f"{name} {RANDOM_VOCABULARY}", random_vocabulary(lvlm, held, seed))
    if rival is not None:
        check_vision(rival.mlp, held.features.encoder, held.features.folder)
        if rival.mlp.config.llm_width != rival.source_rows.shape[1]:
            raise VocabkitError(
                f"the MLP of the other LLM gives visual tokens of width {rival.mlp.config.llm_width}, but that LLM's "
                f"embeddings have {rival.source_rows.shape[1]}; name the LLM that it was trained with"
            )
        for name, fit in (("ridge", ridge), ("procrustes", procrustes)):
            carry = fit(rival.source_rows, rival.target_rows)
            add(
                name,
                lambda numbers, carry=carry: carry(  # type: ignore[misc]
                    rival.mlp(held.features_of(numbers).to(rival.mlp.linear_1.weight))
                ),
            )
    return found


def random_vocabulary(lvlm: LVLM, held: HeldOut, seed: int) -> VisualTokens:
    """The same coefficients over the embedding rows in a random order."""
    adapter = adapter_within(lvlm.connector)
    rows, scale = lvlm.rows_and_scale()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))

    def show(numbers: Tensor) -> Tensor:  # rows are put in order each time: kept, they would be another table
        features = held.features_of(numbers).to(rows.device, lvlm.connector_dtype)
        visual: Tensor = adapter(features, rows[order]) * scale
        return visual

    return show


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
