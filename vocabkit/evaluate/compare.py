"""Compare results of several connectors (adapters or projectors), each relative to the first, as papers print them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading


@dataclass(frozen=True)
class Metric:
    """One figure of one connector."""

    value: float
    change: float | None
    """Relative to the baseline: 0.01 is +1%. None for the baseline itself, and where it lacks the metric or is 0."""


@dataclass(frozen=True)
class Comparison:
    """A table; the first connector is the baseline."""

    metrics: tuple[str, ...]
    """The columns."""
    connectors: Mapping[str, Mapping[str, Metric]]
    """The rows: name -> metric -> figure, which may be missing."""


def compare(files: Mapping[str, str | Path]) -> Comparison:
    """Compare the results of each connector in its file; the first is the baseline.

    Raises:
        VocabkitError: no files, a file that is missing or has no results of that connector, or no metric in common with
            the baseline.
    """
    if not files:
        raise VocabkitError("nothing to compare: give BASELINE=FILE and NAME=FILE")
    found = {name: read_results(Path(path), name) for name, path in files.items()}
    first = next(iter(found))
    for name, figures in found.items():
        if not figures.keys() & found[first].keys():
            raise VocabkitError(
                f"{files[name]}: no metric in common with {files[first]}: here {_some(figures)}, "
                f"there {_some(found[first])}"
            )
    connectors = {
        name: {
            metric: Metric(value, None if name == first else _change(value, found[first].get(metric)))
            for metric, value in figures.items()
        }
        for name, figures in found.items()
    }
    return Comparison(tuple(dict.fromkeys(metric for figures in found.values() for metric in figures)), connectors)


def read_results(path: Path, connector: str) -> dict[str, float]:
    """Metric -> value, from the JSON of `vocabkit validate` or lmms-eval.

    lmms-eval, {"results": {TASK: {"METRIC,FILTER": number}}}: all metrics except standard errors, as `TASK METRIC`.
    vocabkit, which measures several connectors in one run: `DATA loss` and the answers of `connector`.

    Raises:
        VocabkitError: missing, not JSON, of neither program, or without that connector.
    """
    with reading(path):
        try:
            content = msgspec.json.decode(path.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise VocabkitError(f"{path}: not JSON ({quote(str(error), 80)})") from error
    found = _of_lmms_eval(content) or _of_vocabkit(content, path, connector)
    if not found:
        raise VocabkitError(f"{path}: no results of `vocabkit validate` or lmms-eval in it")
    return found


def _of_lmms_eval(content: Any) -> dict[str, float]:
    found = {}
    for task, figures in _items(_get(content, "results")):
        for key, value in _items(figures):
            metric, _, filtered = key.partition(",")
            if _is_number(value) and not metric.endswith("_stderr"):
                words = [task, metric] if filtered in ("", "none") else [task, metric, filtered]
                found[" ".join(words)] = float(value)
    return found


def _of_vocabkit(content: Any, path: Path, connector: str) -> dict[str, float]:
    found = {}
    for name, result in _items(content):
        losses = _get(_get(result, "validation"), "caption_loss")
        if not _items(losses):
            continue
        if connector not in losses:
            raise VocabkitError(f"{path}: {quote(connector)} is not among its results: {quote(', '.join(losses), 200)}")
        found[f"{name} loss"] = losses[connector]
        answers = _get(_get(result, "answers"), connector)
        found |= {f"{name} {question.replace('_', ' ')}": share for question, share in _items(answers)}
    values = {metric: _get(estimate, "value") for metric, estimate in found.items()}
    return {metric: float(value) for metric, value in values.items() if _is_number(value)}


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _change(value: float, baseline: float | None) -> float | None:
    return (value - baseline) / abs(baseline) if baseline else None


def _some(figures: Mapping[str, float]) -> str:
    return quote(", ".join(figures), 80)
