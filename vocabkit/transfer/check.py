"""Proof of a transfer: visual tokens compared with Eq. 5-6, evaluated in float64 from the original parts.

The reference takes the adapter before the transfer and the target's embedding table, looks every token up again by its
bytes, and shares no code with `transfer`, `mix` or `fold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.config import Spelled, why_not_foldable
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.spelled import LIFT
from vocabkit.errors import VocabkitError, quote
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import Target, as_target, trained_tensors
from vocabkit.vision.feature_files import read_features

EXACT = 1e-9
"""Largest relative error where both sides are computed in float64."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest relative error of visual tokens in the LLM's dtype, in addition to what `_ROUNDINGS` allows."""
_ROUNDINGS = 8
"""Allowed multiple of the error from rounding only hidden layer and coefficients, which some weights amplify."""
_BLOCK = 4096
"""Embedding rows that are in float64 at a time."""
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
        return Proof(result.llm, result.config.rows, (), tuple(problems), result.scale)
    problems = _differences(result, original, ids, target)
    inputs = {"random features": torch.randn(patches, width, generator=torch.Generator().manual_seed(seed))}
    if features is not None:
        if features.ndim != 2 or features.shape[1] != width or not len(features):
            raise VocabkitError(f"`features` are {tuple(features.shape)}; expected (N, {width}), N > 0")
        inputs["real features"] = features.float()
    exact = _in_float64(result)
    finite = all(tensor.isfinite().all() for tensor in result.state_dict().values())  # else it can't fold, and fails
    folded = fold(result, torch.float64) if finite and not why_not_foldable(result.config.head) else None
    coarse = max((original.linear_1.weight.dtype, result.embeddings.dtype), key=TOLERANCE.__getitem__)
    checks = []
    for name, values in inputs.items():
        values = values.to(original.linear_1.weight.dtype)
        reference = _reference(result, original, values.double(), ids, target)
        checks.append(Check(f"{name}, in float64", len(values), _error(exact(values.double()), reference), EXACT))
        if result.config.spelled is not None:
            continue
        rounded = _reference(result, original, values.double(), ids, target, rounding=coarse)
        limit = TOLERANCE[coarse] + _ROUNDINGS * _error(rounded, reference)
        checks.append(Check(f"{name}, as run", len(values), _error(result(values), reference), limit))
        if folded is not None:
            error = _error(folded(values.double()), reference)
            checks.append(Check(f"{name}, folded, in float64", len(values), error, EXACT))
    return Proof(result.llm, result.config.rows, tuple(checks), tuple(problems), result.scale)


def _in_float64(result: LangBridgeAdapter) -> LangBridgeAdapter:
    tensors = {name: tensor.double() for name, tensor in result.state_dict().items()}
    return LangBridgeAdapter.from_parts(Path(result.llm), result.config, tensors, result.shared)


def _expected_ids(
    result: LangBridgeAdapter, original: LangBridgeAdapter, target: Target
) -> tuple[list[list[int]], list[str]]:
    """For each row of `original`, the target's ids whose mean embedding it gets ([] if dropped); and what is wrong."""
    problems = []
    vocabulary, moved = target.vocabulary, result.config.transfer
    assert moved is not None
    if moved.source_fingerprint != original.shared.fingerprint:
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
    return ids, problems


def _differences(
    result: LangBridgeAdapter, original: LangBridgeAdapter, ids: list[list[int]], target: Target
) -> list[str]:
    """Return which weights are not the adapter's, and the first row that is not the target's.

    Visual tokens alone do not reveal a wrong row that the few patches give no weight.
    """
    kept = [row for row, parts in enumerate(ids) if parts]
    assert result.embeddings is not None
    stored, found = result.state_dict(), []
    trained = trained_tensors(original)
    for name, tensor in trained.items():
        expected = tensor[kept] if name.startswith("head.") else tensor
        if not torch.equal(stored[name].to(expected.dtype), expected):
            found.append(f"{name} differs from the adapter's")
    if len(found) == len(trained):
        found = ["all of its weights differ from the adapter's: it was made from another one, or trained since"]
    every = [(row, ids[row]) for row in kept]
    if result.config.spelled is not None:
        every = [(row, [token]) for row, spelling in every for token in spelling]
    if len(every) != len(result.embeddings):
        return [*found, f"{len(result.embeddings)} embeddings, but {len(every)} tokens spell the rows"]
    for start in range(0, len(every), _BLOCK):
        rows, parts = zip(*every[start : start + _BLOCK], strict=True)
        expected = _mean_rows(parts, target)
        mean = torch.tensor([len(each) > 1 for each in parts])
        limits = torch.where(mean, TOLERANCE[target.embeddings.dtype], 0.0).double()
        difference = (result.embeddings[start : start + _BLOCK].double() - expected).norm(dim=1)
        wrong = ~(difference <= limits * expected.norm(dim=1))
        if wrong.any():
            row = rows[int(wrong.nonzero()[0])]
            token = original.shared.tokens[row].as_py().decode("utf-8", "backslashreplace")
            found.append(f"row {row} is not the target's embedding of {quote(token)}")
            break
    return found


def _reference(
    result: LangBridgeAdapter,
    original: LangBridgeAdapter,
    features: Tensor,
    ids: list[list[int]],
    target: Target,
    rounding: torch.dtype = torch.float64,
) -> Tensor:
    """(N, D) float64: Eq. 2-3 with the original weights, Eq. 6 with the target's rows; or, as `result` says, (P, D):
    the words with the largest mean coefficients, spelled out.

    Args:
        rounding: dtype that the hidden layer and the coefficients are rounded to, to measure how much that matters.
    """
    weight = {name: tensor.double() for name, tensor in trained_tensors(original).items() if "head" not in name}
    hidden = features @ weight["linear_1.weight"].T + weight["linear_1.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    hidden = (hidden @ weight["linear_2.weight"].T + weight["linear_2.bias"]).to(rounding).double()
    kept = torch.tensor([row for row, parts in enumerate(ids) if parts])
    head, bias = original.head.weight, original.head.bias
    scores = torch.cat([hidden @ head[rows].double().T + bias[rows].double() for rows in kept.split(_BLOCK)], dim=1)
    if original.config.head == "softmax":
        scores = torch.softmax(scores / original.config.temperature, dim=1)
    p = scores.to(rounding).double()  # (N, R)
    if result.config.spelled is not None:
        counts = original.shared.counts
        seen = [0 if counts is None else int(counts[row]) for row in kept.tolist()]
        usual = [count / max(sum(seen), 1) for count in seen]
        spelled = _spelled(p, [ids[row] for row in kept.tolist()], result.config.spelled, usual)
        return result.scale * target.embeddings.rows(spelled).double()
    tokens = torch.zeros(len(features), target.embeddings.width, dtype=torch.float64)
    for start in range(0, len(kept), _BLOCK):
        parts = [ids[row] for row in kept[start : start + _BLOCK].tolist()]
        tokens += p[:, start : start + _BLOCK] @ _mean_rows(parts, target)  # (N, B) @ (B, D) -> (N, D)
    return result.scale * tokens


def _spelled(p: Tensor, ids: list[list[int]], settings: Spelled, usual: list[float]) -> list[int]:
    """The ids at each position, for (N, R) coefficients of an image, the ids of rows and their shares of the corpus."""
    shares, columns = p.mean(dim=0).tolist(), p.T.tolist()
    rows = sorted(range(len(shares)), key=lambda row: -shares[row])
    told = [row for row in rows if shares[row] >= settings.threshold and shares[row] >= LIFT * usual[row]]
    rows = told or rows[:1]
    if settings.order == "place":
        rows.sort(key=lambda row: columns[row].index(max(columns[row])))
    spelled = [token for row in rows for token in ids[row]]
    return [spelled[at % len(spelled)] for at in range(settings.positions or len(p))]


def _mean_rows(parts: Sequence[list[int]], target: Target) -> Tensor:
    """(B, D) float64: the mean of the target's rows for each list of ids, rounded to the dtype of the target."""
    sizes = torch.tensor([len(each) for each in parts])
    table = target.embeddings
    rows = table.rows(np.array([i for each in parts for i in each], np.int64)).double()
    owner = torch.repeat_interleave(torch.arange(len(parts)), sizes)
    means = torch.zeros(len(parts), rows.shape[1], dtype=torch.float64).index_add_(0, owner, rows) / sizes[:, None]
    return means.to(table.dtype).double()


def _error(ours: Tensor, reference: Tensor) -> float:
    difference = (ours.double() - reference).norm(dim=1) / reference.norm(dim=1).clamp_min(1e-300)
    return float(difference.max())
