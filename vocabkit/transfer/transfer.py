"""transfer: the coefficients of an adapter over the embedding rows of another LLM (Eq. 5-6). Nothing is retrained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.config import Transfer
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.partners import other_ids
from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.embeddings import EmbeddingTable
from vocabkit.shared.shared_vocabulary import SharedVocabulary, TokenizerInfo
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.transfer.fold import why_not_foldable

Missing = Literal["error", "drop", "compose"]
"""What becomes of rows whose token the target lacks. error: the transfer is refused. drop: they are left out, by which
a softmax is renormalised and a linear head loses their share. compose: they get the mean of the embeddings of the
tokens that the target's own tokenizer cuts their bytes into."""

EXAMPLES = 8
"""Missing tokens that a report shows."""


@dataclass(frozen=True, eq=False)
class Target:
    """The LLM that an adapter is moved to."""

    vocabulary: Vocabulary
    embeddings: EmbeddingTable


@dataclass(frozen=True)
class MissingToken:
    """A row of V_shared that the target has no token for."""

    row: int
    token: bytes
    composed_of: tuple[bytes, ...]
    """The target's tokens that stand in for it; empty if it was dropped."""


@dataclass(frozen=True)
class Norms:
    """How long embedding rows are."""

    rms: float
    """Root mean square of their elements."""
    shortest: float
    """Euclidean norm of the shortest row."""
    median: float
    longest: float


@dataclass(frozen=True)
class Preflight:
    """What a transfer comes to, known before anything is written."""

    head: str
    source: str
    """The LLM that the adapter was trained with."""
    target: str
    embeddings: str
    """Where the target's embedding rows were read."""
    rows: int
    """Rows of the adapter's V_shared."""
    found: int
    """Rows whose token the target has."""
    composed: int
    dropped: int
    mass_found: float | None
    """Share of the counted corpus mass on found rows; None if V_shared has no counts."""
    mass_dropped: float | None
    examples: tuple[MissingToken, ...]
    norms: Norms
    """Of the target's rows."""
    scale: float
    vision_width: int
    hidden_width: int
    width: int
    """Of the target LLM."""
    dtype: str
    bytes: int
    """Of all tensors of the result."""
    folds: bool
    """Whether the result is exactly a stock two-layer projector."""
    folding: str
    """Why, in words."""
    visual_rms: float | None = None
    """Root mean square of the elements of visual tokens, scale included; None if there were no features to measure."""


def transfer(
    adapter: LangBridgeAdapter, target: Target, *, missing: Missing = "error", scale: float = 1.0
) -> tuple[LangBridgeAdapter, Preflight]:
    """Put `adapter` onto the embedding rows of `target`: visual token = scale * P E_target[V_shared] (Eq. 6).

    The target need not be among the tokenizers that V_shared was built for: its tokens are looked up by their bytes.

    Args:
        missing: what becomes of rows whose token the target lacks.
        scale: factor on the visual tokens.

    Raises:
        VocabkitError: rows missing under `error`, nothing shared at all, ids without an embedding row.
    """
    name = target.vocabulary.name
    shared = _with_target(adapter.shared, target.vocabulary)
    found = shared.mask_for(name)
    lacking = np.flatnonzero(~found)
    if len(lacking) and missing == "error":
        raise VocabkitError(_refusal(shared, lacking, name))
    composed = _compositions(shared, lacking, target.vocabulary) if missing == "compose" else {}
    kept = np.flatnonzero(found | np.isin(np.arange(len(shared)), list(composed)))
    if not len(kept):
        raise VocabkitError(f"{name} has none of the {len(shared):,} tokens of this adapter")
    kept_shared = shared.select(kept) if len(kept) < len(shared) else shared
    stand_ins = [composed.get(row) for row in kept.tolist()] if composed else []
    embeddings, norms = _rows(kept_shared, stand_ins, target)
    moved = Transfer(
        target=name,
        target_width=target.embeddings.width,
        source_fingerprint=adapter.shared.fingerprint,
        embeddings=target.embeddings.source,
        missing=missing,
        scale=scale,
    )
    config = dataclasses.replace(
        adapter.config, rows=len(kept), shared_fingerprint=kept_shared.fingerprint, transfer=moved
    )
    tensors = {**head_rows(adapter, kept), "embeddings": embeddings}
    result = LangBridgeAdapter.from_parts(Path(name), config, tensors, kept_shared)
    return result, _preflight(adapter, result, shared, found, composed, target, norms)


def head_rows(adapter: LangBridgeAdapter, kept: np.ndarray) -> dict[str, Tensor]:
    """The tensors of `adapter` with these rows of its head only."""
    tensors: dict[str, Tensor] = adapter.state_dict()
    if len(kept) < adapter.config.rows:
        rows = torch.from_numpy(kept)
        tensors |= {key: tensors[key][rows] for key in ("head.weight", "head.bias")}
    return tensors


def _with_target(shared: SharedVocabulary, vocabulary: Vocabulary) -> SharedVocabulary:
    """`shared` with a column of the target.

    Another file of a tokenizer in the set may differ in what no row is about (roles, further tokens), and then takes
    its place; one that has other ids for the rows is refused.
    """
    name = vocabulary.name
    if name not in shared.names:
        return shared.extend(vocabulary)
    if difference := other_ids(shared, name, vocabulary):
        raise VocabkitError(f"{name}: {difference}; is it another tokenizer? Then give it another name: NAME=TARGET")
    records = [TokenizerInfo.of(vocabulary) if info.name == name else info for info in shared.tokenizers]
    return dataclasses.replace(shared, tokenizers=tuple(records))


def _refusal(shared: SharedVocabulary, lacking: np.ndarray, name: str) -> str:
    tokens = [shared.tokens[int(row)].as_py().decode("utf-8", "backslashreplace") for row in lacking[:5]]
    listed = ", ".join(map(quote, tokens)) + (", …" if len(lacking) > 5 else "")
    mass = "" if shared.counts is None else f", {_share(shared.counts, lacking):.2%} of the corpus mass"
    return (
        f"{name} lacks {len(lacking):,} of the {len(shared):,} tokens of this adapter{mass} ({listed}); "
        "choose --missing drop or --missing compose"
    )


def _compositions(shared: SharedVocabulary, lacking: np.ndarray, vocabulary: Vocabulary) -> dict[int, list[int]]:
    """Row -> the target's ids whose bytes join to its token, for the rows where there are such."""
    segmenter = Segmenter(vocabulary)
    role_rows = set(shared.roles.values())
    spelled = {row: segmenter.ids(shared.tokens[row].as_py()) for row in lacking.tolist() if row not in role_rows}
    return {row: ids for row, ids in spelled.items() if ids}


def _rows(shared: SharedVocabulary, stand_ins: list[list[int] | None], target: Target) -> tuple[Tensor, Tensor]:
    """(R, D) embedding rows in the table's dtype and their norms (R,); row r is the rounded mean of the rows
    `stand_ins[r]` if given.
    """
    vocabulary, table = target.vocabulary, target.embeddings
    if not stand_ins:
        return table.rows_and_norms(shared.ids_for(vocabulary.name), tokens=vocabulary)
    own = torch.from_numpy(shared.mask_for(vocabulary.name))
    embeddings, norms = torch.empty(len(shared), table.width, dtype=table.dtype), torch.empty(len(shared))
    ids = shared.only_with(vocabulary.name).ids_for(vocabulary.name)
    embeddings[own], norms[own] = table.rows_and_norms(ids, tokens=vocabulary)
    for row in (~own).nonzero().flatten().tolist():
        parts = table.rows(np.array(stand_ins[row], np.int32), tokens=vocabulary)  # (P, D)
        embeddings[row] = parts.double().mean(dim=0).to(table.dtype)
        norms[row] = embeddings[row].float().norm()
    return embeddings, norms


def _preflight(
    adapter: LangBridgeAdapter,
    result: LangBridgeAdapter,
    shared: SharedVocabulary,
    found: np.ndarray,
    composed: dict[int, list[int]],
    target: Target,
    norms: Tensor,
) -> Preflight:
    counts = shared.counts
    dropped = np.setdiff1d(np.flatnonzero(~found), list(composed))
    lacking = np.flatnonzero(~found)[:EXAMPLES].tolist()
    vocabulary = target.vocabulary
    reason = why_not_foldable(adapter.config.head)
    hidden, width = adapter.config.hidden_width, target.embeddings.width
    return Preflight(
        head=adapter.config.head,
        source=adapter.config.llm,
        target=vocabulary.name,
        embeddings=target.embeddings.source,
        rows=len(shared),
        found=int(found.sum()),
        composed=len(composed),
        dropped=len(dropped),
        mass_found=None if counts is None else _share(counts, np.flatnonzero(found)),
        mass_dropped=None if counts is None else _share(counts, dropped),
        examples=tuple(
            MissingToken(
                row,
                shared.tokens[row].as_py(),
                tuple(vocabulary.token(i) or b"" for i in composed.get(row, ())),
            )
            for row in lacking
        ),
        norms=_norms(norms.numpy(), width),
        scale=result.scale,
        vision_width=adapter.config.vision_width,
        hidden_width=hidden,
        width=width,
        dtype=str(target.embeddings.dtype).removeprefix("torch."),
        bytes=sum(tensor.nbytes for tensor in result.state_dict().values()),
        folds=reason is None,
        folding=reason or _folding(hidden, width),
    )


def _folding(hidden: int, width: int) -> str:
    if hidden > width:
        return (
            f"into two layers with {hidden:,} hidden units; a Llava checkpoint and mm_projector hold {width:,}, so "
            "export mmproj or projector, or distil it"
        )
    padded = f" ({hidden:,} hidden units; a Llava checkpoint and mm_projector pad them to {width:,})"
    return f"into a stock two-layer projector{padded if hidden < width else ''}"


def _norms(lengths: np.ndarray, width: int) -> Norms:
    return Norms(
        rms=float(np.sqrt(np.square(lengths, dtype=np.float64).mean() / width)),
        shortest=float(lengths.min()),
        median=float(np.median(lengths)),
        longest=float(lengths.max()),
    )


def _share(counts: np.ndarray, rows: np.ndarray) -> float:
    return float(counts[rows].sum() / max(counts.sum(), 1))


# MERGED: The factor on transferred visual tokens. `none` is Eq. 6 as it stands.
# MERGED:
# MERGED: A linear head is free to make visual tokens far longer than any embedding: the LLM of the training reads them all the
# MERGED: same, another LLM does not. `rms` brings them to the length of the target's embeddings, by one factor for all.

_LARGEST = 1e6
"""A factor that a visual token of any dtype but float16 survives."""


@torch.no_grad()
def visual_rms(transferred: LangBridgeAdapter, features: Tensor) -> float:
    """Root mean square of the elements of the visual tokens of `features` (N, Dv), scale included."""
    return float(transferred(features).float().square().mean().sqrt())


def with_visual_rms(transferred: LangBridgeAdapter, report: Preflight, features: Tensor) -> Preflight:
    """The report with the length of the visual tokens of real patch features (N, Dv)."""
    return dataclasses.replace(report, visual_rms=visual_rms(transferred, features))


def match_rms(transferred: LangBridgeAdapter, report: Preflight, features: Tensor) -> Preflight:
    """Scale the visual tokens of `transferred`, in place, so that those of `features` get the root mean square of the
    target's embedding rows.

    Args:
        features: (N, Dv) real patch features.

    Returns the report with that scale. Raises VocabkitError: visual tokens that are all zero or not finite.
    """
    found = visual_rms(transferred, features) / transferred.scale
    factor = report.norms.rms / found if found else math.inf
    if not (0 < factor < math.inf):
        raise VocabkitError("the visual tokens of these features are all zero or not finite; give other --features")
    with_scale(transferred, factor)
    return dataclasses.replace(report, scale=factor, visual_rms=found * factor)


def with_scale(transferred: LangBridgeAdapter, scale: float) -> LangBridgeAdapter:
    """The same adapter with this factor on its visual tokens, in place."""
    moved = transferred.config.transfer
    assert moved is not None
    transferred.config = dataclasses.replace(transferred.config, transfer=dataclasses.replace(moved, scale=scale))
    return transferred


def parse_scale(argument: str) -> float | None:
    """`none` -> 1.0, `rms` -> None (to be measured), 1e-6 to 1e6 -> itself. Raises VocabkitError: anything else."""
    if argument == "rms":
        return None
    try:
        factor = 1.0 if argument == "none" else float(argument)
    except ValueError:
        factor = math.nan
    if not 1 / _LARGEST <= factor <= _LARGEST:
        raise VocabkitError(f"--scale {quote(argument)}: choose none, rms, or a number from 1e-6 to 1e6")
    return factor
