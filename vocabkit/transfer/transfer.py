"""Transfer an adapter to another LLM: the same coefficients over the embedding rows of the target (Eq. 5-6).

Nothing is retrained. A linear head may give visual tokens far longer than any embedding. The LLM that it was trained
with has learned to read them; another LLM has not. One factor on all visual tokens, the scale, corrects that.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vocabkit.adapter.config import Spelled, Transfer
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.partners import LLMTable, llm_info
from vocabkit.adapter.spelled import SEPARATOR
from vocabkit.errors import VocabkitError, quote, warn
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.embeddings import EmbeddingTable, open_embeddings
from vocabkit.shared.shared_vocabulary import Spellings
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.transfer.plan import (
    Missing,
    Norms,
    Preflight,
    as_trained,
    check_factor,
    how_made,
    note_spelled,
    plan,
    preflight,
    refusal,
    weights_of,
)
from vocabkit.vision.feature_files import read_features


@dataclass(frozen=True, eq=False)
class Target:
    """The LLM that an adapter moves to."""

    vocabulary: Vocabulary
    embeddings: EmbeddingTable
    how: str = ""
    """How its tokenizer was found, in words."""

    def table(self, source: str | None = None) -> LLMTable:
        """Return it as partners are compared; `source` is what the user called it, for messages."""
        table = self.embeddings
        return LLMTable(
            source or table.source, self.vocabulary, table.num_rows, table.width, table.stored_rows, table.rounding
        )


def open_target(
    argument: str,
    *,
    weights: str | Path | None = None,
    embedding_tensor: str | None = None,
    progress: Progress = no_progress,
) -> Target:
    """Open the LLM that `argument` names.

    A model folder, a GGUF or a hub id holds both tokenizer and embedding table. For a model of the catalog, the
    tokenizer is the shipped snapshot, and only the bytes of the embedding table are downloaded.

    Args:
        argument: a folder, GGUF, catalog model or hub id, optionally as NAME=any of these.
        weights: folder, weights file or hub id to read the embedding table from instead.
        embedding_tensor: name of the table in the weights, if it isn't found by itself.
        progress: reports bytes while a table is downloaded.

    Raises:
        VocabkitError: nothing found, no known weights, an encoder-only model, or a table whose width is not the
            catalog's.
    """
    found = resolve(argument)
    source = weights or weights_of(argument, found)
    table = open_embeddings(source, embedding_tensor=embedding_tensor, progress=progress)
    if table.encoder is not None:
        raise VocabkitError(f"{argument}: encoder-only model ({quote(table.encoder)}); pass a causal LLM")
    vocabulary = found.vocabulary
    if vocabulary.width is not None and vocabulary.width != table.width:
        raise VocabkitError(
            f"{argument}: its embeddings have width {vocabulary.width}, but {table.source} has {table.width}; "
            "give the weights of the same model"
        )
    return Target(vocabulary, table, found.how)


def as_target(target: Target | str | Path) -> Target:
    """Return `target`, opened if it is the argument of `open_target` or a path. Raises TypeError for another type."""
    if isinstance(target, Target):
        return target
    if isinstance(target, str | Path):
        return open_target(str(target))
    raise TypeError(f"`target` is {type(target).__name__}; expected a path, a catalog model, a hub id or a Target")


RMS_PATCHES = 4096
"""Patches that the length of visual tokens is measured on. Their mean is stable long before that."""


def transfer(
    adapter: LangBridgeAdapter | str | Path,
    target: Target | str | Path,
    *,
    missing: Missing = "error",
    scale: float | Literal["rms"] = 1.0,
    features: Tensor | str | Path | None = None,
    visual_tokens: Spelled | Literal["mix"] | None = None,
) -> tuple[LangBridgeAdapter, Preflight]:
    """Put `adapter` onto the embedding rows of `target`: visual token = scale * P E_target[V_shared] (Eq. 6).

    The target need not be one of the tokenizers that V_shared was built for: its tokens are looked up by their bytes.

    An adapter that was transferred before, and perhaps trained further since, moves on as it is: with its scale, and
    with the rows that it has.

    Args:
        adapter: in memory, or a checkpoint folder, `.pt` file or hub id.
        target: an LLM opened by `open_target`, or the argument to open it by.
        missing: how to handle rows whose token the target lacks.
        scale: factor on the visual tokens, beside the adapter's own; `rms` makes them as long as the target's embedding
            rows, on `features`.
        features: real patch features (N, Dv), or a folder or file for `read_features`: the length of their visual
            tokens is reported.
        visual_tokens: how they are made of coefficients: mixed (Eq. 6) or spelled out. By default as before this
            transfer, which is mixed for an adapter as it was trained.

    Returns:
        The transferred adapter and the summary of the transfer.

    Raises:
        VocabkitError: missing rows under `error`, no shared tokens at all, ids without an embedding row, or visual
            tokens that `rms` can't scale.
    """
    if scale == "rms" and features is None:
        raise VocabkitError("`scale` rms measures visual tokens: give `features`")
    if scale != "rms":
        check_factor(scale)
    if not isinstance(adapter, LangBridgeAdapter):
        adapter = LangBridgeAdapter.from_pretrained(adapter)
    if isinstance(features, str | Path):
        features = read_features(Path(features), config=adapter.config, limit=RMS_PATCHES)
    target = as_target(target)
    before = adapter.config.transfer
    if before is not None and not before.trained:
        warn(
            f"the adapter was transferred to {before.target} before, which may have cost it rows; the one that it was "
            "made from has them all"
        )
    spelled = how_made(adapter.config, visual_tokens)
    if spelled is not None and missing == "compose" and not adapter.shared.of_words:
        raise VocabkitError("`missing` compose makes mixes of tokens, which can't be spelled out; set it to drop")
    result, report = _move(adapter, target, missing, adapter.scale * (1.0 if scale == "rms" else scale), spelled)
    if features is None:
        return result, report
    rms = visual_rms(result, features)
    if scale == "rms":
        assert report.norms is not None
        factor = report.norms.rms / rms if rms else math.inf
        if not 0 < factor < math.inf:
            raise VocabkitError("the visual tokens of these features are all zero or not finite; give other `features`")
        with_scale(result, factor * result.scale)
        rms *= factor
    return result, dataclasses.replace(report, scale=result.scale, visual_rms=rms)


@torch.no_grad()
def visual_rms(transferred: LangBridgeAdapter, features: Tensor) -> float:
    """Root mean square of the elements of the visual tokens of `features` (N, Dv), scale included."""
    return float(transferred(features).float().square().mean().sqrt())


def with_scale(transferred: LangBridgeAdapter, scale: float) -> LangBridgeAdapter:
    """Set the factor on the visual tokens of `transferred`, in place, and return it.

    Raises VocabkitError: it overflows their dtype.
    """
    moved = transferred.config.transfer
    assert moved is not None
    assert transferred.embeddings is not None
    _check_scale(transferred.embeddings, scale)
    transferred.config = dataclasses.replace(transferred.config, transfer=dataclasses.replace(moved, scale=scale))
    note_spelled(moved.spelled, scale, longest=0)
    return transferred


def _move(
    adapter: LangBridgeAdapter, target: Target, missing: Missing, scale: float, spelled: Spelled | None
) -> tuple[LangBridgeAdapter, Preflight]:
    name, width = target.vocabulary.name, target.embeddings.width
    planned = plan(adapter.config, adapter.shared, target.vocabulary, width)
    if planned.must_refuse(missing):
        raise VocabkitError(refusal(planned))
    note_spelled(spelled, scale, planned.longest)
    shared, kept = planned.shared, planned.kept(missing)
    kept_shared = shared.select(kept) if len(kept) < len(shared) else shared
    spellings = kept_shared.spellings(name)
    if missing == "compose" and planned.pieces:
        own = spellings.lists()
        spellings = Spellings.of(planned.pieces.get(row, own[at]) for at, row in enumerate(kept.tolist()))
    separator = None
    info = llm_info(target.table())  # first: what it reads is freed before the rows are here
    if spelled is None:
        embeddings, norms = target.embeddings.composed(spellings, tokens=target.vocabulary)
    else:
        separator = _separator(target.vocabulary) if kept_shared.of_words else None
        ids = spellings.ids if separator is None else np.append(spellings.ids, np.int32(separator))
        embeddings, norms = target.embeddings.rows_and_norms(ids, tokens=target.vocabulary)
    _check_scale(embeddings, scale)
    moved = Transfer(
        target=name,
        target_width=width,
        source_fingerprint=adapter.shared.fingerprint,
        embeddings=target.embeddings.source,
        missing=missing,
        scale=scale,
        llm_info=info,
        spelled=spelled,
        pieces=len(embeddings) if len(embeddings) != len(kept) else None,
        separator=separator,
    )
    config = dataclasses.replace(
        as_trained(adapter.config), rows=len(kept), shared_fingerprint=kept_shared.fingerprint, transfer=moved
    )
    tensors = {**head_rows(adapter, kept), "embeddings": embeddings}
    result = LangBridgeAdapter.from_parts(Path(name), config, tensors, kept_shared)
    report = preflight(
        adapter.config, planned, target.vocabulary,
        missing=missing, width=width, embeddings=target.embeddings.source, scale=scale, visual_tokens=spelled,
    )  # fmt: skip
    read = {
        "norms": _norms(norms[: len(spellings.ids)].numpy(), width),
        "dtype": str(embeddings.dtype).removeprefix("torch."),
        "bytes": sum(tensor.nbytes for tensor in result.state_dict().values()),
    }
    return result, dataclasses.replace(report, **read)


def _separator(vocabulary: Vocabulary) -> int | None:
    """The id of the comma; None in a tokenizer without one."""
    found = int(vocabulary.ids_of(pa.array([SEPARATOR], pa.binary()))[0])
    return None if found < 0 else found


def _check_scale(rows: Tensor, scale: float) -> None:
    """Raise VocabkitError if a visual token that is one of the rows, scaled, would overflow their dtype."""
    if scale <= 1:
        return
    least, most = (float(each) for each in rows.aminmax())
    largest, limit = max(-least, most), torch.finfo(rows.dtype).max
    if largest * scale > limit:
        raise VocabkitError(
            f"`scale` {scale:g} makes visual tokens of {largest * scale:.3g}, but the embedding rows are "
            f"{str(rows.dtype).removeprefix('torch.')}, which ends at {limit:,.0f}; choose a smaller one"
        )


def head_rows(adapter: LangBridgeAdapter, kept: np.ndarray) -> dict[str, Tensor]:
    """The trained tensors of `adapter`, its head cut down to the rows `kept`."""
    tensors: dict[str, Tensor] = trained_tensors(adapter)
    if len(kept) < adapter.config.rows:
        rows = torch.from_numpy(kept)
        tensors |= {key: tensors[key][rows] for key in ("head.weight", "head.bias")}
    return tensors


def trained_tensors(adapter: LangBridgeAdapter) -> dict[str, Tensor]:
    """The tensors of `adapter` without the embedding rows of an earlier transfer."""
    return {name: tensor for name, tensor in adapter.state_dict().items() if name != "embeddings"}


def _norms(lengths: np.ndarray, width: int) -> Norms:
    return Norms(
        rms=float(np.sqrt(np.square(lengths, dtype=np.float64).mean() / width)),
        shortest=float(lengths.min()),
        median=float(np.median(lengths)),
        longest=float(lengths.max()),
    )
