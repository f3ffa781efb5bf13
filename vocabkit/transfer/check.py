"""Proof of a transfer: visual tokens compared with Eq. 5-6, evaluated in float64 from the original parts.

The reference takes the adapter before the transfer and the target's embedding table, looks every token up again by its
bytes, and shares no code with `transfer`, `mix` or `fold`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.config import Spelled, why_not_foldable
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.spelled import LIFT, SEPARATOR
from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import Target, as_target, trained_tensors
from vocabkit.vision.feature_files import read_features

EXACT = 1e-9
"""Largest relative error where both sides are computed in float64."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest relative error of visual tokens in the LLM's dtype, in addition to what `_ROUNDINGS` allows."""
_ROUNDINGS = 8
"""Allowed multiple of the error from rounding only hidden layer and coefficients, which some weights amplify."""
_BLOCK = 512
"""Embedding rows that are in float64 at a time."""
_COLUMN_BYTES = 1 << 26
"""Of embeddings in float64, in columns."""
_LLM_WIDE = ("embeddings", "image_newline")
"""Tensors whose last dimension is D."""
_REAL_PATCHES = 256
"""Patches of `features` that are read from a file: their coefficients are all held in float64."""


@dataclass(frozen=True)
class Check:
    """One comparison of visual tokens."""

    name: str
    patches: int
    error: float
    """Largest |ours - reference| / |reference| of a patch, in Euclidean norms."""
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class Proof:
    """The result of `check_transfer`."""

    target: str
    rows: int
    checks: tuple[Check, ...]
    problems: tuple[str, ...]
    """Fingerprints that do not match, and weights or rows that are not the original ones; empty if all is well."""
    scale: float = 1.0
    """Factor on the visual tokens that the result records. It multiplies both sides, so it is not checked."""
    spelled: Spelled | None = None
    """How the result records that they are spelled out; None if they are mixes. A choice, which both sides follow."""

    @property
    def passed(self) -> bool:
        """Whether there are no problems and all checks passed."""
        return not self.problems and all(check.passed for check in self.checks)


@torch.no_grad()
def check_transfer(
    result: LangBridgeAdapter | str | Path,
    original: LangBridgeAdapter | str | Path,
    target: Target | str | Path,
    *,
    features: Tensor | str | Path | None = None,
    patches: int = 64,
    seed: int = 0,
) -> Proof:
    """Compare `result` with the visual tokens that Eq. 5-6 give in float64.

    A linear head is also folded, in float64, and the projector is compared as well. Visual tokens that are spelled out
    are compared in float64 only, with all features as one image: rounding may swap words of nearly equal shares.

    Args:
        result: the transferred adapter, in memory or as a folder, `.pt` file or hub id.
        original: the adapter before this transfer, likewise.
        target: an LLM opened by `open_target`, or the argument to open it by.
        features: real patch features (N, Dv), or a folder or file for `read_features`, checked beside random ones.
        patches: number of random patches, drawn from a standard normal distribution.

    Raises:
        VocabkitError: an adapter that was not transferred, or features of another width.
    """
    if not isinstance(result, LangBridgeAdapter):
        result = LangBridgeAdapter.from_pretrained(result, kind="transferred")
    if not isinstance(original, LangBridgeAdapter):
        original = LangBridgeAdapter.from_pretrained(original)
    if result.embeddings is None:
        raise VocabkitError("the adapter was not transferred: it has no embedding rows to check")
    width = original.config.vision_width
    if isinstance(features, str | Path):
        features = read_features(Path(features), config=original.config, limit=_REAL_PATCHES)
    target = as_target(target)
    ids, problems = _expected_ids(result, original, target)
    if problems:
        return Proof(result.llm, result.config.rows, (), tuple(problems), result.scale, result.config.spelled)
    named = {"random features": torch.randn(patches, width, generator=torch.Generator().manual_seed(seed))}
    if features is not None:
        if features.ndim != 2 or features.shape[1] != width or not len(features):
            raise VocabkitError(f"`features` are {tuple(features.shape)}; expected (N, {width}), N > 0")
        named["real features"] = features.float()
    inputs = [values.to(original.linear_1.weight.dtype) for values in named.values()]
    coarse = max((original.linear_1.weight.dtype, result.embeddings.dtype), key=TOLERANCE.__getitem__)
    kept = [row for row, parts in enumerate(ids) if parts]
    weights = [_coefficients(original, values.double(), kept) for values in inputs]
    spelled, moved = result.config.spelled, result.config.transfer
    comma = [] if moved is None or moved.separator is None else [moved.separator]
    rounded = [] if spelled else [_coefficients(original, values.double(), kept, coarse) for values in inputs]
    wrong, sums = _compare_rows(result, original, ids, target, [] if spelled else [*weights, *rounded])
    if spelled is not None:
        sums = [target.embeddings.rows(_spelled(p, ids, comma, original, spelled)).double() for p in weights]
    references = [result.scale * each for each in sums]
    nearby: Sequence[Tensor | None] = references[len(inputs) :] or [None] * len(inputs)
    checks = []
    for name, values, (ours, folded), reference, near in zip(
        named, inputs, _in_float64(result, inputs), references[: len(inputs)], nearby, strict=True
    ):
        checks.append(Check(f"{name}, in float64", len(values), _error(ours, reference), EXACT))
        if near is None:
            continue
        limit = TOLERANCE[coarse] + _ROUNDINGS * _error(near, reference)
        checks.append(Check(f"{name}, as run", len(values), _error(result(values), reference), limit))
        if folded is not None:
            checks.append(Check(f"{name}, folded, in float64", len(values), _error(folded, reference), EXACT))
    problems = [*_compare_weights(result, original, kept), *wrong]
    return Proof(result.llm, result.config.rows, tuple(checks), tuple(problems), result.scale, spelled)


def why_unprovable(result: LangBridgeAdapter, vocabulary: Vocabulary) -> str | None:
    """Say why `check_transfer` can't look up the rows of `result` in the target's tokenizer; None if it can.

    A transfer takes the ids of a tokenizer that V_shared knows from there; the proof spells the words again.
    """
    moved = result.config.transfer
    if result.shared.of_words or (moved is not None and moved.missing == "compose"):
        try:
            Segmenter(vocabulary)
        except VocabkitError as error:
            return str(error)
    return None


def _in_float64(result: LangBridgeAdapter, inputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    """For each of the (N, Dv) `inputs`, the visual tokens (N, D) of `result` and, if it folds, of its projector.

    They depend on the embeddings column by column, so few columns are in float64 at a time.
    """
    moved, state = result.config.transfer, result.state_dict()
    assert moved is not None
    wide = {name: tensor.double() for name, tensor in state.items() if name not in _LLM_WIDE}
    # a projector can't hold what is not finite
    folds = not why_not_foldable(result.config.head) and all(map(_is_finite, state.values()))
    tokens: list[list[Tensor]] = [[] for _ in inputs]
    folded: list[list[Tensor]] = [[] for _ in inputs]
    step = max(1, _COLUMN_BYTES // (8 * len(state["embeddings"])))
    for start in range(0, moved.target_width, step):
        columns = slice(start, start + step)
        part = {name: state[name][..., columns].double() for name in _LLM_WIDE if name in state}
        width = part["embeddings"].shape[1]
        config = dataclasses.replace(
            result.config,
            transfer=dataclasses.replace(moved, target_width=width),
            newline_width=width if "image_newline" in part else None,
        )
        exact = LangBridgeAdapter.from_parts(Path(result.llm), config, {**wide, **part}, result.shared)
        projector = fold(exact, torch.float64) if folds else None
        for values, own, projected in zip(inputs, tokens, folded, strict=True):
            own.append(exact(values.double()))
            if projector is not None:
                projected.append(projector(values.double()))
    return [
        (torch.cat(own, dim=1), torch.cat(projected, dim=1) if folds else None)
        for own, projected in zip(tokens, folded, strict=True)
    ]


def _expected_ids(
    result: LangBridgeAdapter, original: LangBridgeAdapter, target: Target
) -> tuple[list[list[int]], list[str]]:
    """For each row of `original`, the target's ids whose mean embedding it gets ([] if dropped); and what is wrong."""
    problems = []
    vocabulary, moved = target.vocabulary, result.config.transfer
    assert moved is not None
    if moved.source_fingerprint != original.shared.fingerprint and not _is_part(result.shared, original.shared):
        problems.append("the result was made from an adapter with another shared vocabulary")
    recorded = {info.name: info.fingerprint for info in result.shared.tokenizers}
    if recorded.get(result.llm) != vocabulary.fingerprint:
        problems.append(f"the result was made for another tokenizer than {vocabulary.source}")
    if result.llm_width != target.embeddings.width:
        problems.append(f"width {result.llm_width}, but the target's is {target.embeddings.width}")
    if problems:
        return [], problems
    values = vocabulary.tokens.to_pylist()
    id_of = {values[i]: i for i in np.flatnonzero(vocabulary.alignable).tolist()}
    role_of = {row: role for role, row in original.shared.roles.items()}
    tokens = original.shared.tokens.to_pylist()
    segmenter = Segmenter(vocabulary) if moved.missing == "compose" or original.shared.of_words else None
    ids: list[list[int]] = []
    if original.shared.of_words and segmenter is not None:
        ids, tokens = [parts or [] for parts in segmenter.ids_of_each(tokens)], []
    for row, token in enumerate(tokens):
        found = vocabulary.roles.get(role_of[row]) if row in role_of else id_of.get(token)
        if found is not None:
            ids.append([found])
        else:
            ids.append((segmenter.ids(token) or []) if segmenter and row not in role_of else [])
    kept = [row for row, parts in enumerate(ids) if parts]
    if len(kept) != result.config.rows:
        problems.append(f"{result.config.rows} rows, but the target has {len(kept)} of the adapter's")
    elif moved.missing == "error" and len(kept) < len(ids):
        problems.append(f"{len(ids) - len(kept)} rows are missing, but the transfer allowed none")
    elif moved.spelled is not None:
        stored, needed = len(result.state_dict()["embeddings"]), sum(map(len, ids)) + (moved.separator is not None)
        if stored != needed:
            problems.append(f"{stored} embeddings, but {needed} tokens spell the rows")
        if moved.separator not in (None, id_of.get(SEPARATOR)):
            problems.append(f"words are separated by id {moved.separator}, which is no comma")
    return ids, problems


def _is_part(shared: SharedVocabulary, whole: SharedVocabulary) -> bool:
    """Whether the rows of `shared` are some of `whole`, in its order: an earlier move may have added a column to it."""
    own, others = (
        iter([role_of.get(row, token) for row, token in enumerate(each.tokens.to_pylist())])
        for each in (shared, whole)
        for role_of in [{row: role for role, row in each.roles.items()}]
    )
    return all(row in others for row in own)  # `in` moves `others` on


def _compare_weights(result: LangBridgeAdapter, original: LangBridgeAdapter, kept: Sequence[int]) -> list[str]:
    """Return which weights are not those of the adapter, whose rows `kept` the result has."""
    stored, found = result.state_dict(), []
    trained = trained_tensors(original)
    for name, tensor in trained.items():
        expected = tensor[kept] if name.startswith("head.") and len(kept) < len(tensor) else tensor
        if not torch.equal(stored[name].to(expected.dtype), expected):
            found.append(f"{name} differs from the adapter's")
    if len(found) == len(trained):
        return ["all of its weights differ from the adapter's: it was made from another one, or trained since"]
    return found


def _compare_rows(
    result: LangBridgeAdapter,
    original: LangBridgeAdapter,
    ids: list[list[int]],
    target: Target,
    weights: Sequence[Tensor],
) -> tuple[list[str], list[Tensor]]:
    """Return the first row of `result` that is not the target's, and Eq. 6 with the target's rows: for each (N, R) of
    `weights`, (N, D) float64 sums. Large tables are read from the file once.

    Visual tokens alone do not reveal a wrong row that the few patches give no weight.
    """
    moved = result.config.transfer
    assert result.embeddings is not None
    assert moved is not None
    every = [(row, parts) for row, parts in enumerate(ids) if parts]
    if moved.spelled is not None:
        every = [(row, [token]) for row, spelling in every for token in spelling]
        if moved.separator is not None:
            every.append((-1, [moved.separator]))
    found: list[str] = []
    sums = torch.zeros(sum(map(len, weights)), target.embeddings.width, dtype=torch.float64)
    for start in range(0, len(every), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows, parts = zip(*every[block], strict=True)
        expected = _mean_rows(parts, target)  # (B, D)
        if weights:
            sums.addmm_(torch.cat([p[:, block].double() for p in weights]), expected)  # (ΣN, B) @ (B, D) -> (ΣN, D)
        if not found:
            mean = torch.tensor([len(each) > 1 for each in parts])
            limits = torch.where(mean, TOLERANCE[target.embeddings.dtype], 0.0).double()
            difference = (result.embeddings[block].double() - expected).norm(dim=1)
            wrong = ~(difference <= limits * expected.norm(dim=1))
            if wrong.any():
                row = rows[int(wrong.nonzero()[0])]
                token = SEPARATOR if row < 0 else original.shared.tokens[row].as_py()
                name = quote(token.decode("utf-8", "backslashreplace"))
                found.append(f"{'the separator' if row < 0 else f'row {row}'} is not the target's embedding of {name}")
    return found, list(sums.split([len(p) for p in weights]))


def _coefficients(
    original: LangBridgeAdapter, features: Tensor, kept: Sequence[int], rounding: torch.dtype = torch.float64
) -> Tensor:
    """(N, Dv) float64 -> (N, R): Eq. 2-3 in float64 with the original weights, for the rows `kept`.

    Args:
        rounding: dtype that the hidden layer and the result are rounded to, to measure how much that matters.
    """
    weight = {name: tensor.double() for name, tensor in trained_tensors(original).items() if "head" not in name}
    hidden = features @ weight["linear_1.weight"].T + weight["linear_1.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    hidden = (hidden @ weight["linear_2.weight"].T + weight["linear_2.bias"]).to(rounding).double()
    head, bias, blocks = original.head.weight, original.head.bias, torch.tensor(kept).split(_BLOCK)
    scores = torch.cat([hidden @ head[rows].double().T + bias[rows].double() for rows in blocks], dim=1)
    if original.config.head == "softmax":
        scores = torch.softmax(scores / original.config.temperature, dim=1)
    return scores.to(rounding)


def _spelled(
    p: Tensor, ids: list[list[int]], comma: list[int], original: LangBridgeAdapter, settings: Spelled
) -> list[int]:
    """The target's id at each position, for (N, R) coefficients of an image, of the rows of `original` with ids."""
    kept, counts = [row for row, parts in enumerate(ids) if parts], original.shared.counts
    seen = [0 if counts is None else int(counts[row]) for row in kept]
    usual = [count / max(sum(seen), 1) for count in seen]
    shares, columns = p.mean(dim=0).tolist(), p.T.tolist()
    rows = sorted(range(len(shares)), key=lambda row: -shares[row])
    told = [row for row in rows if shares[row] >= settings.threshold and shares[row] >= LIFT * usual[row]]
    rows = told or rows[:1]
    if settings.order == "place":
        rows.sort(key=lambda row: columns[row].index(max(columns[row])))
    spelled = [token for row in rows for token in (*ids[kept[row]], *comma)]
    return [spelled[at % len(spelled)] for at in range(settings.positions or len(p))]


def _mean_rows(parts: Sequence[list[int]], target: Target) -> Tensor:
    """(B, D) float64: the mean of the target's rows for each list of ids, rounded to the dtype of the target."""
    sizes = torch.tensor([len(each) for each in parts])
    table = target.embeddings
    rows = table.rows(np.array([i for each in parts for i in each], np.int64)).double()
    if len(rows) == len(parts):
        return rows
    owner = torch.repeat_interleave(torch.arange(len(parts)), sizes)
    means = torch.zeros(len(parts), rows.shape[1], dtype=torch.float64).index_add_(0, owner, rows) / sizes[:, None]
    return means.to(table.dtype).double()


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are, without a copy of the tensor."""
    return all(math.isfinite(bound) for bound in tensor.aminmax())


def _error(ours: Tensor, reference: Tensor) -> float:
    difference = (ours.double() - reference).norm(dim=1) / reference.norm(dim=1).clamp_min(1e-300)
    return float(difference.max())
