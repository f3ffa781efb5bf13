"""The transfer page: what moved, the proof, and plots of a validation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError, quote
from vocabkit.evaluate.answers import RIGHT, asked
from vocabkit.evaluate.losses import Estimate
from vocabkit.evaluate.validate import BLIND, NATIVE, Result, Validation
from vocabkit.files.atomic import reading
from vocabkit.report.html.page import Origin, render
from vocabkit.transfer.check import Proof
from vocabkit.transfer.plan import Missing, Preflight
from vocabkit.transfer.transfer import Target, transfer

_TICKS = 5
"""Approximate number of ticks on an axis."""


@dataclass(frozen=True)
class Measured:
    """One dataset of a validation."""

    name: str
    result: Result
    loss: Plot
    retention: Plot | None
    of_mlp: Plot | None
    questions: Mapping[str, tuple[str, float]]
    """The entries of `RIGHT` that the data allows."""


def transfer_page(
    proof: Proof, preflight: Preflight | None, origin: Origin, validation: Mapping[str, Result] | None = None
) -> str:
    """Render the page.

    Args:
        preflight: of the transfer that was checked; None if its parts do not belong together.
        validation: results by dataset, from `read_validation`.
    """
    return render(
        "transfer.html.j2",
        origin,
        proof=proof,
        preflight=preflight,
        validation=[_measured(name, result) for name, result in (validation or {}).items()],
    )


def preflight_of(
    proof: Proof, moved: LangBridgeAdapter, original: LangBridgeAdapter, target: Target
) -> Preflight | None:
    """Repeat the transfer that `proof` checked, for its report; None if its parts do not belong together."""
    if proof.problems:
        return None
    assert moved.config.transfer is not None
    missing = msgspec.convert(moved.config.transfer.missing, Missing)
    made: Spelled | Literal["mix"] = moved.config.spelled or "mix"
    return transfer(original, target, missing=missing, scale=moved.scale / original.scale, visual_tokens=made)[1]


def read_validation(path: Path) -> dict[str, Result]:
    """Read the results of `vocabkit validate --out`, by dataset, without figures that are not finite.

    Raises VocabkitError: missing, or not such a file.
    """
    with reading(path):
        try:
            content = _without_gaps(msgspec.json.decode(path.read_bytes()))
            if isinstance(content, dict):
                content.pop("schema", None)  # files of earlier versions have none
            found: dict[str, Result] = msgspec.convert(content, dict[str, Result])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reason = quote(str(error).replace("`", ""), 100)  # backticks are for parameters
            raise VocabkitError(f"{path}: not results of vocabkit validate --out ({reason})") from error
    empty = [name for name, result in found.items() if not result.validation.caption_loss]
    if empty or not found:
        raise VocabkitError(f"{path}: no caption losses; give a file of vocabkit validate --out")
    return found


def _without_gaps(content: Any) -> Any:
    """Drop estimates with a null, which is how numbers that are not finite are written."""
    if not isinstance(content, dict):
        return content
    estimate = {"value", "low", "high"}
    gaps = {
        name
        for name, item in content.items()
        if isinstance(item, dict) and item.keys() == estimate and None in item.values()
    }
    return {name: _without_gaps(item) for name, item in content.items() if name not in gaps}


def _measured(name: str, result: Result) -> Measured:
    found = _without_intervals(result.validation) if result.validation.too_few else result.validation
    losses = {line: found.caption_loss[line].value for line in (BLIND, NATIVE) if line in found.caption_loss}
    ends = {"no better than blind": 0.0, "as good": 1.0}
    return Measured(
        name=name,
        result=result,
        loss=plot(found.caption_loss, losses),
        retention=plot(found.retention, ends) if found.retention else None,
        of_mlp=plot(found.of_mlp, ends) if found.of_mlp else None,
        questions={name: RIGHT[name] for name in asked(result.answers.values())},
    )


def _without_intervals(found: Validation) -> Validation:
    """Each figure as a point."""

    def points(figures: Mapping[str, Estimate]) -> dict[str, Estimate]:
        return {name: Estimate(each.value, each.value, each.value) for name, each in figures.items()}

    return dataclasses.replace(
        found,
        caption_loss=points(found.caption_loss),
        retention=points(found.retention),
        of_mlp=points(found.of_mlp),
    )


# ---- plots: figures with intervals, placed in percent of an axis --------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One figure, with places in percent of the axis."""

    label: str
    estimate: Estimate
    place: float
    low: float
    width: float


@dataclass(frozen=True)
class Plot:
    """Figures on one axis."""

    bars: tuple[Bar, ...]
    lines: tuple[tuple[str, float], ...]
    """Reference values: name and place."""
    ticks: tuple[tuple[str, float], ...]


def plot(figures: Mapping[str, Estimate], lines: Mapping[str, float]) -> Plot:
    """Place `figures` and named vertical `lines` on an axis that holds them all."""
    values = [*lines.values(), *(value for e in figures.values() for value in (e.value, e.low, e.high))]
    lowest, highest = min(values), max(values)
    room = (highest - lowest or abs(highest) or 1.0) * 0.06
    start, end = lowest - room, highest + room

    def place(value: float) -> float:
        return 100 * (value - start) / (end - start)

    return Plot(
        bars=tuple(
            Bar(name, e, place(e.value), place(e.low), place(e.high) - place(e.low)) for name, e in figures.items()
        ),
        lines=tuple((name, place(value)) for name, value in lines.items()),
        ticks=tuple((shown, place(value)) for shown, value in _ticks(start, end)),
    )


def _ticks(start: float, end: float) -> list[tuple[str, float]]:
    """Round numbers between the ends, with their labels."""
    raw = (end - start) / _TICKS
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * next(factor for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(start / step), math.floor(end / step)
    return [(f"{number * step:.{digits}f}", number * step) for number in range(first, last + 1)]
