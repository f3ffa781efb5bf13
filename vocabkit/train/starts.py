"""Starts of new adapters that need no training: what the vision model itself says, and least squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.adapter.space_maps import ridge
from vocabkit.data.samples import Picture, Sample
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import LLM
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.shared.words import key, read_names
from vocabkit.train.dataset import Images, image_tensor
from vocabkit.vision.features import Features
from vocabkit.vision.labels import head_scores, label_scores

SEEN = 256
"""Pictures whose patches show what features are like, for a head that starts from labels."""
FITTED = 20_000
"""Most pictures that a least-squares fit sees: more change it little."""
_BATCH = 32
_Item = TypeVar("_Item")


def rows_of_names(names: Sequence[str], shared: SharedVocabulary) -> list[int | None]:
    """The row of each name, in any case; None for a name that is no row."""
    tokens = enumerate(shared.tokens.to_pylist())
    row_of = {key((token or b"").decode("utf-8", "replace")): row for row, token in tokens}
    return [row_of.get(key(name)) for name in names]


def start_from_labels(adapter: LangBridgeAdapter, file: str, samples: Sequence[Sample], images: Images) -> None:
    """Start a head at the scores that the vision model gives to the names in `file`, see `label_scores`.

    Raises VocabkitError: as `read_names` and `label_scores`; fewer than two names are rows.
    """
    names = read_names(file)
    rows = rows_of_names(names, adapter.shared)
    if len(found := set(rows) - {None}) < 2:  # scores of one name say nothing
        raise VocabkitError(
            f"{file}: {'only one' if found else 'none'} of its names is a row of the shared vocabulary; build that "
            "with `build-shared --names`"
        )
    patches = torch.cat(list(_patches(_spread([s.images[0] for s in samples if s.images], SEEN), images))).flatten(0, 1)
    info = images.encoder if isinstance(images, Features) else images.info
    adapter.initialise_from_scores(
        *head_scores(*label_scores(info["name"], info["layer"], names, patches, file=file), rows, len(adapter.shared))
    )


def start_from_captions(projector: MLPProjector, samples: Sequence[Sample], images: Images, llm: LLM) -> None:
    """Start an MLP at the linear map from a picture's mean patch to the mean embedding of its caption's tokens, by
    ridge regression over the samples: the closed-form rival, which needs no training and no shared vocabulary.
    """
    chosen = _spread([sample for sample in samples if len(sample.images) == 1], FITTED)
    patches = torch.cat([each.mean(dim=1) for each in _patches([sample.images[0] for sample in chosen], images)])
    table = llm.model.get_input_embeddings()
    with torch.no_grad():
        means = []
        for sample in chosen:
            text = " " + " ".join(turn.answer for turn in sample.turns)
            ids = torch.tensor(llm.tokenizer.encode(text, add_special_tokens=False), device=table.weight.device)
            means.append(table(ids).float().mean(dim=0).cpu())
    fitted = ridge(patches, torch.stack(means))
    projector.initialise_from_map(fitted.weight, fitted.bias)


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of the items, as far apart as they can be."""
    return [items[int(number)] for number in np.linspace(0, len(items) - 1, min(count, len(items)))]


def _patches(pictures: Sequence[Picture], images: Images) -> Iterator[Tensor]:
    """(B, N, Dv) float32 at a time."""
    for start in range(0, len(pictures), _BATCH):
        found = torch.stack([image_tensor(images, picture) for picture in pictures[start : start + _BATCH]])
        yield (found if isinstance(images, Features) else images(found)).float().cpu()
