"""Conditions of a validation: visual tokens of adapters, of rivals, and of the controls that they must beat.

A transfer through the vocabulary has to beat a map between embedding spaces: an MLP projector trained with LLM-1, whose
visual tokens the best map between the embeddings of shared tokens carries to LLM-2. `ridge` is the best linear map with
a bias, `procrustes` the best rotation with a scale (Schönemann, 1966; if widths differ, onto the common dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.model import Adapter, MLPProjector
from vocabkit.adapter.partners import check_encoder
from vocabkit.errors import VocabkitError, quote
from vocabkit.evaluate.losses import HeldOut, VisualTokens, shown_by
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import LVLM

BLIND = "blind"
"""The baseline: the mean embedding in place of every visual token."""
SHUFFLED, RANDOM_VOCABULARY = "shuffled", "random vocabulary"
"""Controls of each adapter, named after it."""

_BLOCK = 8192
"""Rows of the embedding table in float64 at a time."""
_PENALTIES = torch.logspace(-6, 1, 8, dtype=torch.float64)
"""Penalties of ridge, in units of the mean variance."""
_HELD_OUT = 10
"""One row in this many chooses the penalty."""


@dataclass(frozen=True)
class Rival:
    """An MLP trained with another LLM, and the rows that map its visual tokens to this LLM."""

    mlp: MLPProjector
    source_rows: Tensor
    """(V, D1) embeddings of the shared tokens in the LLM that it was trained with."""
    target_rows: Tensor
    """(V, D2) their embeddings in this LLM."""


def conditions(
    llm: LLM, held: HeldOut, adapters: Mapping[str, Adapter], rival: Rival | None, seed: int
) -> dict[str, VisualTokens]:
    """Visual tokens by the names in `Validation.caption_loss`: each adapter is followed by its controls.

    Raises:
        VocabkitError: an adapter that does not fit the features or the LLM, or has the name of another condition.
    """
    found = {BLIND: blind_tokens(llm, held)}

    def add(name: str, visual: VisualTokens) -> None:
        if name in found:
            raise VocabkitError(f"two conditions are called {quote(name)}; give the adapter another name")
        found[name] = visual

    others = other_images(held.keys, seed)
    for name, adapter in adapters.items():
        check_encoder(adapter.config, held.features.encoder, held.features.folder)
        lvlm = LVLM(llm, adapter)
        show = shown_by(lvlm, held)
        add(name, show)
        if others is not None:
            add(f"{name} {SHUFFLED}", lambda numbers, show=show: show(others[numbers]))  # type: ignore[misc]
        if not isinstance(adapter, MLPProjector):
            add(f"{name} {RANDOM_VOCABULARY}", random_vocabulary(lvlm, held, seed))
    if rival is not None:
        check_encoder(rival.mlp.config, held.features.encoder, held.features.folder)
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


def mean_embedding(llm: LLM) -> Tensor:
    """(D,) mean embedding of all ids of the tokenizer, float32."""
    module = llm.model.get_input_embeddings()
    count = min(len(llm.vocabulary), module.weight.shape[0])
    ids = torch.arange(count, device=llm.model.device)
    with torch.no_grad():
        total: Tensor = sum(module(part).double().sum(dim=0) for part in ids.split(_BLOCK))
        mean: Tensor = (total / count).float()
    return mean


def blind_tokens(llm: LLM, held: HeldOut) -> VisualTokens:
    """The mean embedding for every image."""
    mean = mean_embedding(llm)
    return lambda numbers: mean.expand(len(numbers), held.features.tokens, -1)


def random_vocabulary(lvlm: LVLM, held: HeldOut, seed: int) -> VisualTokens:
    """The same coefficients over the embedding rows in a random order."""
    adapter, rows = lvlm.connector, lvlm.rows()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))

    def show(numbers: Tensor) -> Tensor:  # permuted anew each time: a permuted copy would be a second table in memory
        features = held.features_of(numbers).to(rows.device, lvlm.connector_dtype)
        visual: Tensor = adapter(features, rows[order])
        return visual

    return show


def other_images(keys: Sequence[str], seed: int) -> Tensor | None:
    """(I,) for each image the number of an image with another key; None if all keys are equal."""
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first)
    if len(distinct) < 2:
        return None
    other = {key: first[distinct[to]] for key, to in zip(distinct, derangement(len(distinct), seed), strict=True)}
    return torch.tensor([other[key] for key in keys])


def derangement(count: int, seed: int) -> np.ndarray:
    """(count,) a permutation without fixed points, for two or more."""
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """x -> (x - source_mean) weight + target_mean."""

    source_mean: Tensor
    """(D1,)."""
    weight: Tensor
    """(D1, D2)."""
    target_mean: Tensor
    """(D2,)."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """(..., D1) -> (..., D2), in the dtype of `tokens`."""
        moved = (tokens.double() - self.source_mean) @ self.weight + self.target_mean
        return moved.to(tokens.dtype)


def ridge(source: Tensor, target: Tensor) -> SpaceMap:
    """Fit the linear map of least squared error plus a penalty, which held-out rows choose.

    Args:
        source: (V, D1) embeddings of the shared tokens.
        target: (V, D2) of the same tokens.
    """
    source, target = source.double(), target.double()
    held = torch.arange(len(source)) % _HELD_OUT == 0
    trials = [_ridge(source[~held], target[~held], float(penalty)) for penalty in _PENALTIES]
    errors = [float((trial(source[held]) - target[held]).square().sum()) for trial in trials]
    return _ridge(source, target, float(_PENALTIES[errors.index(min(errors))]))


def procrustes(source: Tensor, target: Tensor) -> SpaceMap:
    """Fit the rotation and scale of least squared error. Arguments as for `ridge`."""
    x, y, source_mean, target_mean = _centred(source.double(), target.double())
    u, singular, v = torch.linalg.svd(x.T @ y, full_matrices=False)
    rotation = u @ v  # (D1, D2)
    scale = singular.sum() / (x @ rotation).square().sum()
    return SpaceMap(source_mean, rotation * scale, target_mean)


def _ridge(source: Tensor, target: Tensor, penalty: float) -> SpaceMap:
    x, y, source_mean, target_mean = _centred(source, target)
    gram = x.T @ x
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    return SpaceMap(source_mean, torch.linalg.solve(gram, x.T @ y), target_mean)


def _centred(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source_mean, target_mean = source.mean(dim=0), target.mean(dim=0)
    return source - source_mean, target - target_mean, source_mean, target_mean
