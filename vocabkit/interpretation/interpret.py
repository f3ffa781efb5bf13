"""interpret: the visual tokens of images as vocabulary tokens of an LLM.

Sizes: C checkpoints, I images of N patches, Dv width of the vision encoder, D width of the LLM; k tokens kept of each
patch and m of each image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter import LangBridgeAdapter, MLPProjector
from vocabkit.errors import VocabkitError
from vocabkit.interpretation.heads import HeadReading, read_head
from vocabkit.interpretation.naming import as_word
from vocabkit.interpretation.nearest import nearest_tokens, searched_ids
from vocabkit.interpretation.results import Development, ImageInfo, Reading, Token
from vocabkit.lvlm import Connector
from vocabkit.transfer import Target, head_rows, transfer
from vocabkit.transferred import TransferredAdapter
from vocabkit.verification import wrong_rows
from vocabkit.vocabulary import Kind

IMAGE_TOKENS = 20
"""m."""


@dataclass(frozen=True, eq=False)
class InOneLLM:
    """The part of an `Interpretation` that is about one LLM; its fields are those of the same name there."""

    searched: int
    """Tokens of its vocabulary."""
    readings: tuple[Reading, ...]
    development: tuple[Development, ...]
    tokens: Mapping[int, Token]
    rows: Mapping[int, bytes]


def interpret(
    checkpoints: Mapping[str, Connector],
    target: Target,
    images: Sequence[ImageInfo],
    features: Tensor,
    top: int,
    progress: Callable[[int, int], None] | None = None,
) -> InOneLLM:
    """What the visual tokens of images stand for in the LLM `target`.

    A LangBridgeAdapter is put onto the target's embedding rows first, without the rows of its V_shared that the target
    lacks. These rows are read once, and the vocabulary is searched once, for all checkpoints and images.

    Args:
        checkpoints: adapters by their labels, of one type and, if they have one, one V_shared.
        features: (I, N, Dv) of `images`.
        top: k; fewer are kept if the head has fewer rows.
        progress: called with (rows searched, rows in total).

    Raises VocabkitError: parts that do not fit together, nothing shared at all, damaged rows.
    """
    if len({None if c.shared is None else c.shared.fingerprint for c in checkpoints.values()}) > 1:
        raise VocabkitError(
            f"{', '.join(checkpoints)}: adapters with different shared vocabularies; give those of one training"
        )
    moved = _for_target(checkpoints, target)
    visual = torch.cat([_visual_tokens(connector, features) for connector in moved.values()])  # (C I, N, D)
    ids = searched_ids(target.vocabulary, target.embeddings)
    found, best = nearest_tokens(visual.flatten(0, 1), target.embeddings, ids, min(top, len(ids)), progress)
    found = found[:, : int((found[0] >= 0).sum())]  # rows of zeros are never found
    nearest = found.view(len(moved), *features.shape[:2], -1).numpy().astype(np.int32)  # (C, I, N, k)
    cosines = best[:, : found.shape[1]].reshape(nearest.shape).numpy()
    tokens = {token: _token(target, token) for token in np.unique(nearest).tolist()}
    token_words = {token: as_word(known.token) for token, known in tokens.items() if known.kind != "special"}
    readings: list[Reading] = []
    for at, (label, connector) in enumerate(moved.items()):
        for number, image in enumerate(images):
            near, cosine = nearest[at, number], cosines[at, number]
            image_nearest, image_cosines = _summed(near, cosine)
            readings.append(
                Reading(
                    image=number,
                    llm=target.vocabulary.name,
                    checkpoint=label,
                    nearest=near,
                    cosines=cosine,
                    names_object=_names(near, token_words, image.words),
                    image_nearest=image_nearest,
                    image_cosines=image_cosines,
                    **_of_head(connector, features[number], top),
                )
            )
    shared = next(iter(moved.values())).shared
    parts = [part.ravel() for r in readings for part in (r.rows, r.image_rows) if part is not None]
    rows = (
        {} if shared is None else {row: shared.tokens[row].as_py() for row in np.unique(np.concatenate(parts)).tolist()}
    )
    development = tuple(_development(label, readings, images, rows) for label in moved)
    return InOneLLM(len(ids), tuple(readings), development, tokens, rows)


def _for_target(connectors: Mapping[str, Connector], target: Target) -> dict[str, MLPProjector | TransferredAdapter]:
    moved: dict[str, MLPProjector | TransferredAdapter] = {}
    first: TransferredAdapter | None = None
    for label, connector in connectors.items():
        if not isinstance(connector, LangBridgeAdapter):
            _check_target(connector, target)
            moved[label] = connector
        elif first is None:
            moved[label] = first = transfer(connector, target, missing="drop")[0]
        else:
            moved[label] = _moved_as(first, connector, target)
    return moved


def _moved_as(first: TransferredAdapter, adapter: LangBridgeAdapter, target: Target) -> TransferredAdapter:
    """As `transfer` of another adapter with the same V_shared gives it, on the rows that were read for `first`."""
    name = target.vocabulary.name
    shared = adapter.shared if name in adapter.shared.names else adapter.shared.extend(target.vocabulary)
    head = head_rows(adapter, np.flatnonzero(shared.mask_for(name)))
    inner = dataclasses.replace(
        adapter.config, rows=first.config.adapter.rows, shared_fingerprint=first.shared.fingerprint
    )
    tensors = {f"adapter.{key}": tensor for key, tensor in head.items()} | {"embeddings": first.embeddings}
    config = dataclasses.replace(first.config, adapter=inner)
    return TransferredAdapter.from_parts(Path(name), config, tensors, first.shared)


def _check_target(connector: MLPProjector | TransferredAdapter, target: Target) -> None:
    """Raises VocabkitError: it makes visual tokens of another LLM."""
    name = target.vocabulary.name
    match connector:
        case MLPProjector():
            llm, width, other_way = connector.config.llm, connector.config.llm_width, ""
        case TransferredAdapter():
            llm, width = connector.config.target, connector.config.target_width
            other_way = ", or give the adapter as it was before the transfer"
            if width == target.embeddings.width and len(wrong_rows(connector.shared, llm, target.vocabulary)):
                raise VocabkitError(f"{name}: its tokenizer has other ids than {llm}, which the adapter was moved to")
    if width != target.embeddings.width:
        raise VocabkitError(
            f"this adapter is of {llm} alone, width {width}, not of {name}, width {target.embeddings.width}; "
            f"leave --llm {name} out{other_way}"
        )


@torch.no_grad()
def _visual_tokens(connector: MLPProjector | TransferredAdapter, features: Tensor) -> Tensor:
    """(I, N, Dv) -> (I, N, D) float32."""
    dtype = next(connector.parameters()).dtype
    return torch.stack([connector(image.to(dtype)).float() for image in features])


def _of_head(connector: MLPProjector | TransferredAdapter, features: Tensor, top: int) -> dict[str, np.ndarray | None]:
    """The fields of a `Reading` that are about the head, of the (N, Dv) features of one image."""
    if isinstance(connector, MLPProjector):
        return dict.fromkeys(HeadReading._fields)
    head = connector.adapter
    k, m = min(top, head.config.rows), min(IMAGE_TOKENS, head.config.rows)
    return read_head(head, features.to(head.linear_1.weight.dtype), k, m)._asdict()


def _summed(nearest: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, k), (N, k) -> (m,) tokens and (m,) sums over N of their cosines, largest first."""
    tokens, places = np.unique(nearest, return_inverse=True)
    sums = np.bincount(places.ravel(), weights=cosines.ravel()) / len(nearest)
    order = np.argsort(-sums, kind="stable")[:IMAGE_TOKENS]
    return tokens[order], sums[order].astype(np.float32)


def _names(numbers: np.ndarray, words: Mapping[int, str | None], wanted: Sequence[str]) -> np.ndarray | None:
    """(N, k) tokens or rows -> (N,) bool: one of them is a word that is wanted; None if no word is."""
    if not wanted:
        return None
    naming = [number for number, word in words.items() if word in wanted]
    return np.asarray(np.isin(numbers, naming).any(axis=1))


def _development(
    label: str, readings: Sequence[Reading], images: Sequence[ImageInfo], rows: Mapping[int, bytes]
) -> Development:
    own = [reading for reading in readings if reading.checkpoint == label]
    row_words = {row: as_word(token) for row, token in rows.items()}
    by_head = [_names(r.rows, row_words, images[r.image].words) for r in own if r.rows is not None]
    entropies = [r.entropy for r in own if r.entropy is not None]
    return Development(
        llm=own[0].llm,
        checkpoint=label,
        mean_best_cosine=float(np.concatenate([r.cosines[:, 0] for r in own]).mean()),
        named=_share([r.names_object for r in own]),
        named_by_head=_share(by_head),
        mean_entropy=float(np.concatenate(entropies).mean()) if entropies else None,
    )


def _share(parts: Sequence[np.ndarray | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return float(np.concatenate(known).mean()) if known else None


def _token(target: Target, token_id: int) -> Token:
    spelled = target.vocabulary.token(token_id)
    return Token(b"" if spelled is None else spelled, Kind(target.vocabulary.kinds[token_id]).name.lower())
